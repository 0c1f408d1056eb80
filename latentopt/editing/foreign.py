"""Directions of other projects, told by content and read without running anything: `.npy`, `.npz`, `.pt`, safetensors.

    a tensor        [C], [1,C] (InterFaceGAN), [L,C], [1,L*C] (boundaries of W+); several: [k,C], [k,L,C]
    a dict          of such tensors by name
    GANSpace's      {comp [k,1,C], ...}, {lat_comp [k,1,C], ...}; one: {lat_comp [1,C], edit_start, edit_end}
    rosinality's    {eigvec [C,k]} (SeFa)

Lengths in these files mean different things, or nothing: all are scaled to the generator's samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentopt.checkpoints.arrays import Arrays, read_arrays, summary
from latentopt.checkpoints.latent_files import LATENT_KEYS
from latentopt.editing.coordinates import in_w
from latentopt.editing.direction import Direction
from latentopt.editing.scaling import sample_codes, scaled
from latentopt.errors import CheckpointError
from latentopt.files.text import one_line
from latentopt.protocols import Generator

COMPONENTS = 64  # at most this many of a list of components
VECTOR_KEYS = ("direction", "boundary", "normal", "vector", "latent_direction")  # of one, named after its file
NUMBER = re.compile(r"\d+[_ -]+(?=\D)")  # before names: 31_Smiling


@dataclass(frozen=True, eq=False)
class _Vector:
    """[C] or [L,C], as it is in the file; `layers`: the rows that it is for, None for all."""

    name: str
    vector: Tensor
    method: str = "file"
    layers: tuple[int, ...] | None = None


def is_foreign(arrays: Arrays) -> bool:
    """Whether a file that was read is another project's: ours say what they hold."""
    return not arrays.metadata.get("format", "").startswith("latentopt-")


def read_foreign(
    path: Path, generator: Generator, force: bool = False, arrays: Arrays | None = None
) -> list[Direction]:
    """The directions of a foreign file by their names in it, or named after it (`<stem>-0`, `<stem>-1` ... where there
    are several). `arrays`: its contents, where it was read already.

    Raises CheckpointError, naming file and remedy, unless forced, since such a file does not say which generator it is
    for; and for one that holds no directions of the dimensions of `generator`.
    """
    arrays = arrays or read_arrays(path, "directions")
    contents = arrays.contents
    if "fingerprint" in arrays.metadata and "ws" in contents:
        raise CheckpointError(f"{path}: latents of an image, not directions; latentopt edit takes them as RUN")
    found = _named(list(_vectors(contents, path.stem, _Shapes(path, generator))))
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
    for entry in found:
        vector = entry.vector
        if not vector.isfinite().all() or not vector.any():
            raise CheckpointError(f"{path}: {one_line(entry.name)} is all zero, or not finite")
        if vector.ndim == 2 and (vector == vector[:1]).all():
            vector = vector[0]  # one vector, repeated for every layer
        along = codes if vector.ndim == 1 else codes[:, None].expand(-1, len(vector), -1)  # [n,L,C]
        space, values = in_w(layered=vector.ndim == 2), scaled(vector, along)
        directions.append(Direction(entry.name, space, values, layers=entry.layers, method=entry.method, **common))
    return directions


def _named(found: list[_Vector]) -> list[_Vector]:
    """With names that can be written in an edit, which differ: numbers before all of them are left out."""
    plain = [NUMBER.sub("", entry.name, count=1) if NUMBER.match(entry.name) else entry.name for entry in found]
    names = plain if len(set(plain)) == len(plain) else [entry.name for entry in found]
    return [
        _Vector(name.replace("=", "-"), entry.vector, entry.method, entry.layers)
        for name, entry in zip(names, found, strict=True)
    ]


@dataclass(frozen=True)
class _Shapes:
    """The shapes that directions of a generator have, and the message for others."""

    path: Path
    generator: Generator

    def several(self, x: object, name: str) -> list[Tensor]:
        """Each [C] or [L,C], float32. Raises CheckpointError."""
        rows, dim = self.generator.num_ws, self.generator.w_dim
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
            raise CheckpointError(f"{self._at(name)} holds {summary(x)}, no real numbers; expected a direction")
        x = x.detach().float()
        if x.numel() == dim and dim in x.shape:
            return [x.reshape(dim)]
        if x.shape[-2:] == (rows, dim):
            return list(x.reshape(-1, rows, dim))
        if x.ndim <= 2 and x.shape[-1] == rows * dim:
            return list(x.reshape(-1, rows, dim))
        if x.shape[-1] == dim and (x.ndim == 2 or x.shape[-2] == 1):
            return list(x.reshape(-1, dim))
        raise CheckpointError(
            f"{self._at(name)} is {list(x.shape)}; the latents of {self.generator.name!r} ask for [{dim}] or "
            f"[{rows},{dim}]; those of another generator: name it with --network"
        )

    def rows(self, contents: Mapping[Any, Any]) -> tuple[int, ...] | None:
        """The rows of GANSpace's `edit_start` and `edit_end`; None for all."""
        first, last = contents.get("edit_start"), contents.get("edit_end")
        if not isinstance(first, int) and not isinstance(last, int):
            return None
        count = self.generator.num_ws
        start, end = first if isinstance(first, int) else 0, last if isinstance(last, int) and last >= 0 else count
        rows = tuple(range(count))[max(start, 0) : end]
        if not rows:
            raise CheckpointError(f"{self.path}: moves the rows {start} to {end}; the generator has {count}")
        return rows if len(rows) < count else None

    def _at(self, name: str) -> str:
        return f"{self.path}: {one_line(name)}"


def _vectors(contents: object, name: str, shapes: _Shapes) -> Iterator[_Vector]:
    """The directions in what was read; `name`: of a single one. Raises CheckpointError."""
    if isinstance(contents, Mapping):
        yield from _of_dict(contents, name, shapes)
    elif isinstance(contents, list | tuple) and contents:
        for i, entry in enumerate(contents[:COMPONENTS]):
            yield from _vectors(entry, f"{name}-{i}", shapes)
    else:
        yield from _numbered(shapes.several(contents, name), name, "file", None)


def _numbered(vectors: list[Tensor], name: str, method: str, layers: tuple[int, ...] | None) -> Iterator[_Vector]:
    for i, vector in enumerate(vectors[:COMPONENTS]):
        yield _Vector(name if len(vectors) == 1 else f"{name}-{i}", vector, method, layers)


def _of_dict(contents: Mapping[Any, Any], name: str, shapes: _Shapes) -> Iterator[_Vector]:
    components = next((contents[key] for key in ("comp", "lat_comp") if isinstance(contents.get(key), Tensor)), None)
    if components is not None:
        yield from _numbered(shapes.several(components, name), name, "ganspace", shapes.rows(contents))
    elif isinstance(contents.get("eigvec"), Tensor) and contents["eigvec"].ndim == 2:  # columns
        yield from _numbered(shapes.several(contents["eigvec"].T, name), name, "sefa", None)
    elif (key := next((key for key in VECTOR_KEYS if isinstance(contents.get(key), Tensor)), None)) is not None:
        yield from _numbered(shapes.several(contents[key], name), name, "file", shapes.rows(contents))
    elif (key := next((key for key in contents if str(key).lower() in LATENT_KEYS), None)) is not None:
        raise CheckpointError(f"{shapes.path}: holds {str(key)!r}, latents of images, not directions")
    else:
        entries = {k: v for k, v in contents.items() if isinstance(v, Tensor | Mapping | list | tuple | np.ndarray)}
        if not entries:
            raise CheckpointError(f"{shapes.path}: holds {summary(contents)}, no direction")
        for key, entry in entries.items():
            yield from _vectors(entry, _plain(str(key)), shapes)


def _plain(key: str) -> str:
    """A name by its key, which may be that of a file."""
    return Path(key).stem if Path(key).suffix.lower() in (".npy", ".pt", ".pth", ".npz") else key
