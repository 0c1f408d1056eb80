"""Directions of other projects: plain tensors and arrays, read without running anything.

    .npy  [1,C] or [C] (InterFaceGAN), [1,L*C] or [L,C] (boundaries of W+)
    .pt   a tensor of such a shape; GANSpace's {comp [k,1,C], ...}; rosinality's SeFa {eigvec [C,k]}
    .npz  GANSpace's {lat_comp [k,1,C], ...}

Lengths in these files mean different things, or nothing: all are scaled to the generator's samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentopt.checkpoints.npz import read_npz
from latentopt.checkpoints.restricted_pickle import read_torch_contents
from latentopt.editing.coordinates import in_w
from latentopt.editing.direction import Direction
from latentopt.editing.scaling import sample_codes, scaled
from latentopt.errors import CheckpointError, UntrustedFileError
from latentopt.protocols import Generator

SUFFIXES = (".pt", ".npy", ".npz")
SIZE_LIMIT = 256 << 20  # bytes; the largest known file has a few MB
COMPONENTS = 64  # at most this many of a list of components


def read_foreign(path: Path, generator: Generator, force: bool = False) -> list[Direction]:
    """The directions of a foreign file, named after it (`<stem>-0`, `<stem>-1` ... where there are several).

    Raises CheckpointError, naming file and remedy, unless forced, since such a file does not say which generator it is
    for; and for one that holds no directions of the dimensions of `generator`.
    """
    found = list(_vectors(path, generator))
    if not force:
        raise CheckpointError(
            f"{path}: does not say which generator its directions belong to; pass --force if that is {generator.name!r}"
        )
    codes = sample_codes(generator)  # [n,C]
    common: dict[str, Any] = {
        "fingerprint": generator.fingerprint,
        "generator": generator.name,
        "about": {"file": path.name},
    }
    directions = []
    for name, method, vector in found:
        if not vector.isfinite().all() or not vector.any():
            raise CheckpointError(f"{path}: {name} is all zero, or not finite")
        if vector.ndim == 2 and (vector == vector[:1]).all():
            vector = vector[0]  # one vector, repeated for every layer
        along = codes if vector.ndim == 1 else codes[:, None].expand(-1, len(vector), -1)  # [n,L,C]
        space = in_w(layered=vector.ndim == 2)
        directions.append(Direction(name, space, scaled(vector, along), method=method, **common))
    return directions


def _vectors(path: Path, generator: Generator) -> Iterator[tuple[str, str, Tensor]]:
    """Name, method and vector [C] or [L,C] of each direction. Raises CheckpointError."""
    method, values = _read(path)
    num_ws, w_dim = generator.num_ws, generator.w_dim
    if method:  # [k,C]
        if values.numel() == 0 or values.shape[-1] != w_dim:
            raise CheckpointError(f"{path}: components {list(values.shape)}; {generator.name!r} has w_dim {w_dim}")
        for i, vector in enumerate(values.reshape(-1, w_dim)[:COMPONENTS]):
            yield f"{path.stem}-{i}", method, vector
    elif values.numel() == w_dim:
        yield path.stem, "file", values.reshape(w_dim)
    elif values.numel() == num_ws * w_dim:
        yield path.stem, "file", values.reshape(num_ws, w_dim)
    else:
        raise CheckpointError(
            f"{path}: holds {list(values.shape)}; the latents of {generator.name!r} ask for [{w_dim}] or "
            f"[{num_ws},{w_dim}]"
        )


def _read(path: Path) -> tuple[str, Tensor]:
    """The method, "" for a single direction, and the values, float32. Raises CheckpointError and UntrustedFileError."""
    if path.stat().st_size > SIZE_LIMIT:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for directions; refused")
    if path.suffix == ".npz":
        return "ganspace", torch.from_numpy(read_npz(path, ["lat_comp"])["lat_comp"].astype(np.float32))
    contents = _read_npy(path) if path.suffix == ".npy" else read_torch_contents(path)
    method = ""
    if isinstance(contents, dict):
        if isinstance(contents.get("comp"), Tensor):
            method, contents = "ganspace", contents["comp"]
        elif isinstance(contents.get("eigvec"), Tensor) and contents["eigvec"].ndim == 2:
            method, contents = "sefa", contents["eigvec"].T  # columns
    if not isinstance(contents, Tensor) or not contents.is_floating_point():
        raise CheckpointError(f"{path}: no direction: expected a tensor, 'comp' (GANSpace) or 'eigvec' (SeFa)")
    return method, contents.float()


def _read_npy(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, OSError, EOFError, SyntaxError ... for damaged files
        if "allow_pickle" in str(error):
            raise UntrustedFileError(f"{path}: holds Python objects, which could run code; refused") from None
        raise CheckpointError(f"{path}: not a readable .npy file ({error})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise CheckpointError(f"{path}: holds no real numbers")
    return torch.from_numpy(array.astype(np.float32))
