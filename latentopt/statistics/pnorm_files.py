"""Reading P-norm statistics: our safetensors, and the `.npz` of existing implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentopt.checkpoints.model_files import Checkpoint
from latentopt.checkpoints.npz import read_npz
from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.storage import STATISTICS_LIMIT, load_tensors
from latentopt.statistics.moments import floored

FORMAT = "latentopt-pnorm-1"
FIELDS = ("name", "fingerprint", "n", "seed", "slope")


def read_safetensors(path: Path) -> dict[str, Any]:
    """The fields of a `PNorm`. Raises StatisticsError, CheckpointError or, for damaged metadata, ValueError."""
    tensors, metadata = load_tensors(path, STATISTICS_LIMIT)
    if metadata.get("format") != FORMAT:
        raise StatisticsError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    names = ("mean", "components", "std")
    if missing := set(names) - tensors.keys():
        raise StatisticsError(f"it lacks {', '.join(sorted(missing))}")
    readers = {"n": int, "seed": int, "slope": float, "fingerprint": str, "name": str}
    fields = {key: read(metadata[key]) for key, read in readers.items() if key in metadata}
    return {"name": path.stem, **{name: tensors[name] for name in names}, **fields}


def read_pca_npz(path: Path) -> dict[str, Any]:
    """The fields of a `PNorm` from X_mean [C], X_comp [C,C] (rows) and X_stdev [C].

    Such files say nothing of their origin. Raises StatisticsError, and the errors of
    `latentopt.checkpoints.npz.read_npz`.
    """
    arrays = read_npz(path, ("X_mean", "X_comp", "X_stdev")).values()
    mean, components, std = (array.astype(np.float64) for array in arrays)
    if std.ndim != 1 or not len(std):
        raise StatisticsError(f"X_stdev must be [C], not {std.shape}")
    return {
        "name": path.stem,
        "mean": torch.from_numpy(mean.reshape(-1)),
        "components": torch.from_numpy(components),
        "std": torch.from_numpy(floored(std)),
    }


def describe_statistics(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of such a file (see `latentopt.registry.FORMATS`)."""
    std = checkpoint.contents.get("std")
    if std is None or std.ndim != 1 or not len(std):
        raise CheckpointError(f"{checkpoint.path}: P-norm statistics without 'std' [C]; the file is damaged")
    known = {key: checkpoint.metadata[key] for key in FIELDS if key in checkpoint.metadata}
    return {
        "kind": "P-norm statistics",
        "w_dim": len(std),
        "largest_std": float(std.max()),
        "smallest_std": float(std.min()),
        **known,
        "use": "the P-norm spaces, for the generator with this fingerprint",
    }
