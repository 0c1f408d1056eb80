"""Reading P-norm statistics: our safetensors, and the `.npz` of existing implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentopt.errors import StatisticsError
from latentopt.moments import floored
from latentopt.storage import load_tensors

FORMAT = "latentopt-pnorm-1"


def read_safetensors(path: Path) -> dict[str, Any]:
    """The fields of a `PNorm`. Raises StatisticsError, CheckpointError or, for damaged metadata, ValueError."""
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise StatisticsError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    names = ("mean", "components", "std")
    if missing := set(names) - tensors.keys():
        raise StatisticsError(f"it lacks {', '.join(sorted(missing))}")
    readers = {"n": int, "seed": int, "slope": float, "fingerprint": str, "name": str}
    fields = {key: read(metadata[key]) for key, read in readers.items() if key in metadata}
    return {"name": path.stem, **{name: tensors[name] for name in names}, **fields}


def read_npz(path: Path) -> dict[str, Any]:
    """The fields of a `PNorm` from X_mean [C], X_comp [C,C] (rows) and X_stdev [C].

    Such files say nothing of their origin. Pickled arrays are refused. Raises StatisticsError.
    """
    if not path.is_file():
        raise StatisticsError("no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, components, std = (np.asarray(file[key], np.float64) for key in ("X_mean", "X_comp", "X_stdev"))
    except KeyError as error:
        raise StatisticsError(f"it lacks an array ({error.args[0]}); expected X_mean, X_comp, X_stdev") from error
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for a damaged file
        raise StatisticsError(f"not a readable .npz file ({error})") from error
    if std.ndim != 1 or not len(std):
        raise StatisticsError(f"X_stdev must be [C], not {std.shape}")
    return {
        "name": path.stem,
        "mean": torch.from_numpy(mean.reshape(-1)),
        "components": torch.from_numpy(components),
        "std": torch.from_numpy(floored(std)),
    }
