"""Snapshots of a training: all its state in one file, written whole or not at all, continued only as it was begun."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from latentopt.errors import CheckpointError
from latentopt.files.storage import write_atomically

SAID = ("settings", "made")  # JSON in a snapshot: the settings; what else the training was made from


def save_snapshot(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, dicts and lists of them), atomically."""
    write_atomically(path, lambda temporary: torch.save(dict(state), temporary))


def load_snapshot(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read what `save_snapshot` wrote. Runs nothing.

    Raises CheckpointError, naming the file and the remedy, for one that is damaged or no snapshot of a training.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not a readable snapshot ({error}); remove it to start the training anew"
        ) from error
    if not isinstance(state, dict) or not any(key in state for key in SAID):
        raise CheckpointError(f"{path}: a torch file, but no snapshot of a training; use another folder")
    return state


def check_agrees(path: Path, state: Mapping[str, Any], mine: Mapping[str, object], defaults: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a snapshot was made with something else than `mine`, naming what and the remedy.

    defaults: of settings that a snapshot of an earlier release does not have.
    """
    saved = dict(defaults)
    for key in SAID:
        saved |= json.loads(state.get(key, "{}"))
    if "base" in state:  # where an earlier release kept it
        saved["base"] = state["base"]
    plain = json.loads(json.dumps(mine))  # tuples become lists, as in the file
    differing = [f"{key} {saved.get(key)}, not {value}" for key, value in plain.items() if saved.get(key) != value]
    if differing:
        raise CheckpointError(f"{path}: made with other settings ({'; '.join(differing)}); use another folder")
