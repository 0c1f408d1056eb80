"""Snapshots of a training: all its state in one file, written whole or not at all, continued only as it was begun."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.checkpoints.pickle_limits import printable
from latentopt.checkpoints.restricted_pickle import check_file_size
from latentopt.checkpoints.torch_zip import TorchZip
from latentopt.errors import CheckpointError, UntrustedFileError
from latentopt.files.schema import parse_json
from latentopt.files.storage import write_atomically

SAID = ("settings", "made")  # JSON in a snapshot: the settings; what else the training was made from


def save_snapshot(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, dicts and lists of them), atomically."""
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))


def state_of(part: Any) -> dict[str, Any]:
    """The `state_dict` of a part. Adam's first moments are left out where beta1 is 0: they are the last gradient."""
    state: dict[str, Any] = part.state_dict()
    if not isinstance(part, torch.optim.Adam):
        return state
    fresh = {i for group in state["param_groups"] if group["betas"][0] == 0 for i in group["params"]}
    moments = {
        i: {key: value for key, value in of.items() if key != "exp_avg" or i not in fresh}
        for i, of in state["state"].items()
    }
    return state | {"state": moments}


def whole_state(part: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """What `state_of` gave of such a part as its `state_dict` has it; a whole `state_dict` stays as it is."""
    if not isinstance(part, torch.optim.Adam):
        return dict(state)
    moments = {i: {"exp_avg": torch.zeros_like(of["exp_avg_sq"])} | of for i, of in state["state"].items()}
    return {**state, "state": moments}


def load_snapshot(path: Path) -> dict[str, Any]:
    """Read what `save_snapshot` wrote. Runs nothing.

    Raises CheckpointError, naming the file and the remedy, for one that is damaged or no snapshot of a training, and
    UntrustedFileError for one that asks for code.
    """
    try:
        with path.open("rb") as file:
            TorchZip(file, str(path), check_file_size(path))  # nothing in it inflates
            file.seek(0)
            # torch's own reader keeps how each tensor lies in memory, and with it how sums over it are rounded
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # CheckpointError, OSError, EOFError, UnpicklingError ... for damaged files
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise UntrustedFileError(f"{path}: asks for {printable(named[1])}; refused, nothing was run") from error
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(
            f"{path}: not a readable snapshot ({reason}); remove it to start the training anew"
        ) from error
    if not isinstance(state, dict) or not any(key in state for key in SAID):
        raise CheckpointError(f"{path}: a torch file, but no snapshot of a training; use another folder")
    return state


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """What goes wrong within it is the snapshot's fault: its values do not fit. Raises CheckpointError for that."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: a damaged snapshot ({error!r}); remove it to start the training anew"
        ) from error


def check_like(loaded: object, own: object, place: str) -> None:
    """Raise ValueError, naming the place, where an entry of `loaded` is not built as that of `own`, or is not finite.

    Entries that only one of them has are left to `load_state_dict`.
    """
    if isinstance(own, dict):
        if not isinstance(loaded, dict):
            raise ValueError(f"{place} is no table")
        for key in own.keys() & loaded.keys():
            check_like(loaded[key], own[key], f"{place}.{key}")
    elif isinstance(own, list | tuple):
        if not isinstance(loaded, list | tuple) or len(loaded) != len(own):
            raise ValueError(f"{place} has another length")
        for i, (mine, other) in enumerate(zip(own, loaded, strict=True)):
            check_like(other, mine, f"{place}.{i}")
    elif isinstance(own, Tensor):
        if not isinstance(loaded, Tensor) or loaded.shape != own.shape:
            raise ValueError(f"{place} has another shape")
    elif isinstance(loaded, float) and not math.isfinite(loaded):
        raise ValueError(f"{place} is {loaded}")
    elif not isinstance(loaded, type(own)) and not (isinstance(own, float) and isinstance(loaded, int)):
        raise ValueError(f"{place} is a {type(loaded).__name__}, not a {type(own).__name__}")


def lay_out_moments(optimizer: torch.optim.Optimizer) -> None:
    """Moments are laid out in memory as their weights are: what a file gives is contiguous, and rounds differently."""
    for parameter, kept in optimizer.state.items():
        for name, x in kept.items():
            if isinstance(x, Tensor) and x.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=x.dtype).copy_(x)


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where what an optimiser has loaded of a parameter has not the parameter's shape."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} has shape {list(value.shape)}, its parameter {list(parameter.shape)}")


def check_agrees(path: Path, state: Mapping[str, Any], mine: Mapping[str, object], defaults: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a snapshot was made with something else than `mine`, naming what and the remedy.

    defaults: of settings that a snapshot of an earlier release does not have.
    """
    saved = dict(defaults)
    for key in SAID:
        try:
            saved |= parse_json(state.get(key, "{}"), dict[str, Any])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: a damaged snapshot ({error}); remove it to start anew") from error
    if "base" in state:  # where an earlier release kept it
        saved["base"] = state["base"]
    plain = json.loads(json.dumps(mine))  # tuples become lists, as in the file
    differing = [f"{key} {saved.get(key)}, not {value}" for key, value in plain.items() if saved.get(key) != value]
    if differing:
        raise CheckpointError(f"{path}: made with other settings ({'; '.join(differing)}); use another folder")
