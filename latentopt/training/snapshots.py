"""Snapshots of a training: all its state in one file, written whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from latentopt.errors import CheckpointError
from latentopt.files.storage import write_atomically


def save_snapshot(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, dicts and lists of them), atomically."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_snapshot(path: Path, device: torch.device | str, needed: str = "settings") -> dict[str, Any]:
    """What `save_snapshot` wrote, with an entry `needed`. Runs nothing. Raises CheckpointError, naming file and remedy."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not a readable snapshot ({error}); remove it to start the training anew"
        ) from error
    if not isinstance(state, dict) or needed not in state:
        raise CheckpointError(f"{path}: a torch file, but no snapshot of a training; use another folder")
    return state
