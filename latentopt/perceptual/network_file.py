"""The file of a small network that is trained here: weights, the configuration it is built from, and its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from latentopt.errors import CheckpointError
from latentopt.files.schema import check_sizes, parse_json
from latentopt.files.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Network = TypeVar("Network", bound=nn.Module)
LARGEST = 4096  # of any size in a configuration


def save_network(
    path: Path, network: nn.Module, config: DataclassInstance, card: Mapping[str, object], form: str, **more: str
) -> None:
    """Write weights, configuration, the card (data, seeds, steps, command, licence, figures), the format's name, and
    what `more` there is to say.
    """
    metadata = {"format": form, "config": json.dumps(asdict(config)), "card": json.dumps(dict(card)), **more}
    save_tensors(path, network.state_dict(), metadata)


def load_network(path: Path, form: str, kind: str, config: type, network: Callable[[Any], Network]) -> Network:
    """The frozen network in evaluation mode, on the CPU, which `network` makes of a `config`.

    Raises CheckpointError for a file that is damaged or of another kind (`kind`: in words, with its article).
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != form:
        raise CheckpointError(f"{path}: not {kind} (format {metadata.get('format')!r}, not {form!r})")
    try:
        settings = parse_json(metadata["config"], config)
        for name, value in vars(settings).items():
            if value != ():  # nothing is binary
                check_sizes(name, value, 1, LARGEST)
        with torch.device("meta"):  # takes no memory, whatever the configuration asks for
            made = network(settings)
        types = {name: tensor.dtype for name, tensor in made.state_dict().items()}
        state = {name: tensor.to(types.get(name), copy=True) for name, tensor in tensors.items()}
        made.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its configuration ({error})") from error
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{path}: {broken[0]} is not finite; the file is damaged")
    return made.eval().requires_grad_(False)
