"""A batch as a file: what is written of it, and how that is read again."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import CheckpointError
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.inverting.saved_state import DamagedState, Meta, check_start, check_state, parse_meta
from latentopt.loop.state import State
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

FORMAT = "latentopt-run-1"
DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError)  # what reading a damaged state raises


def write_saved(
    path: Path, meta: dict[str, Any], inputs: GeneratorInputs | None, state: State | None, history: list[list[dict]]
) -> None:
    """Write a batch, atomically: its start, its state while a stage is at work, and `meta`, the rest of it."""
    tensors: dict[str, Tensor] = {}
    if inputs is not None:
        tensors |= flatten("start", inputs_table(inputs))
    if state is not None:
        meta = meta | {"state": {"step": state.step, "chunk": state.chunk, "status": state.status}}
        tensors |= flatten("state", {f.name: getattr(state, f.name) for f in fields(State)})
    tensors["history"] = torch.frombuffer(bytearray(json.dumps(history).encode()), dtype=torch.uint8)
    text = json.dumps(meta)
    save_tensors(path, tensors, {"format": FORMAT, "meta": text, "checksum": checksum(tensors, text)})


def read_saved(path: Path) -> tuple[dict[str, Tensor], Meta]:
    """The tensors and the rest of what `write_saved` wrote. Raises DamagedState for a file of another kind."""
    with damage(path):
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT:
            raise DamagedState(f"{path}: not a saved run of this version")
        if metadata["checksum"] != checksum(tensors, metadata["meta"]):
            raise ValueError("its checksum is another")
        return tensors, parse_meta(metadata["meta"])


def start_of(tensors: dict[str, Tensor], meta: Meta, generator: Generator, images: int) -> GeneratorInputs | None:
    """What the stage at work began with, checked; None for a batch that has not begun."""
    start = unflatten("start", tensors, generator.device)
    if not (start or meta["stage"] or "state" in meta):
        return None
    inputs = inputs_of(start)
    check_start(inputs, generator, images)
    return inputs


def state_of(tensors: dict[str, Tensor], meta: Meta, device: torch.device, images: int) -> State | None:
    """The state of the stage at work, checked; None between two stages."""
    if "state" not in meta:
        return None
    values: dict[str, Any] = {"moments": {}, "remembered": {}} | unflatten("state", tensors, device) | meta["state"]
    state = State(**values)
    check_state(state, images)
    return state


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """What is read or checked within raises DamagedState, naming the file, for whatever is wrong with it."""
    try:
        yield
    except DamagedState:
        raise
    except (CheckpointError, *DAMAGE) as error:
        raise DamagedState(f"{path}: damaged ({error})") from error


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Of the numbers and the text of a saved batch: a disk that has lost some bits must not go on with others."""
    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found = zlib.crc32(f"{name}{tuple(values.shape)}{values.dtype}".encode(), found)
        found = zlib.crc32(values.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def inputs_table(inputs: GeneratorInputs) -> dict:
    """The fields of inputs by name."""
    return {f.name: getattr(inputs, f.name) for f in fields(inputs)}


def inputs_of(tree: dict) -> GeneratorInputs:
    """Inputs from nested dicts of tensors; a state of an earlier release may hold `features` (see GeneratorInputs)."""
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        flat |= {f"{name}/{key}": x for key, x in value.items()} if isinstance(value, dict) else {name: value}
    return GeneratorInputs.from_tensors(flat)


def flatten(prefix: str, value: object) -> dict[str, Tensor]:
    """Nested dicts of tensors as one flat dict; names are joined by `|`, anything that is no tensor is left out."""
    if isinstance(value, Tensor):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    return {k: v for key, part in value.items() for k, v in flatten(f"{prefix}|{key}", part).items()}


def unflatten(prefix: str, tensors: dict[str, Tensor], device: torch.device) -> dict:
    """The nested dicts that `flatten` made flat."""
    tree: dict = {}
    for name, tensor in tensors.items():
        first, *path = name.split("|")
        if first == prefix:
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            # a copy, since tensors of a mapped file are not aligned, and matrix products then round differently
            node[path[-1]] = tensor.to(device, copy=True)
    return tree
