"""The file of a small network that is trained here: weights, the configuration it is built from, and its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from latentopt.errors import CheckpointError
from latentopt.files.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Network = TypeVar("Network", bound=nn.Module)


def save_network(path: Path, network: nn.Module, config: DataclassInstance, card: dict[str, object], form: str) -> None:
    """Write weights, configuration, the card (data, seeds, steps, command, licence, figures) and the format's name."""
    metadata = {"format": form, "config": json.dumps(asdict(config)), "card": json.dumps(card)}
    save_tensors(path, network.state_dict(), metadata)


def load_network(path: Path, form: str, kind: str, build: Callable[..., Network]) -> Network:
    """The frozen network in evaluation mode, on the CPU; `build` makes it from the fields of its configuration.

    Raises CheckpointError for a file that is damaged or of another kind (`kind`: in words, with its article).
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != form:
        raise CheckpointError(f"{path}: not {kind} (format {metadata.get('format')!r}, not {form!r})")
    try:
        fields = json.loads(metadata["config"])
        network = build(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its configuration ({error})") from error
    return network.eval().requires_grad_(False)
