"""Latents in files, ours and other tools', told by content. L = num_ws, C = w_dim.

    ours              `inputs.safetensors`, of one image or several; `projected_w.npz`
    a tensor          [L,C], [N,L,C]; [C], [1,C], [N,C] or [N,1,C]: one code for all rows; [N,L*C]
    in a dict         under `w`, `latent`, `dlatents` ... (LATENT_KEYS), or one entry an image: {name: latent}
    in a list         one an image
    rosinality's      {file: {"latent": [L,C] or [C], "noise": [maps]}}

In `.npy`, `.npz`, `.pt` and `.safetensors` alike. None of them but ours says which generator it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from latentopt.checkpoints.arrays import DEEPEST, PICTURE_REMEDY, read_arrays, summary
from latentopt.checkpoints.saved_inputs import check_inputs
from latentopt.errors import CheckpointError
from latentopt.files.text import one_line
from latentopt.protocols import Generator
from latentopt.types import EARLIER, GROUPS, GeneratorInputs, check_tensors

LATENT_KEYS = (
    "w", "ws", "wp", "w+", "w_plus", "wplus", "latent", "latents", "dlatent", "dlatents", "latent_in", "latent_code",
    "latent_codes", "projected_w", "code", "codes", "pivot", "w_pivot",
)  # fmt: skip
NOISE_KEYS = ("noise", "noises")
NAME_KEYS = ("names", "files", "paths", "filenames", "images")
FEATURE_KEYS = ("latent_f", "features", "feature")
MAPPED = ("z", "zs", "latent_z")
OURS = {  # what files of ours are that hold no latents
    "latentopt-pnorm-1": "P-norm statistics",
    "latentopt-sigma-1": "sigma of weights",
    "latentopt-prior-1": "a linear prior",
    "latentopt-directions-1": "directions for editing (--directions)",
    "latentopt-delta-1": "a change of weights; name the result's folder for its latents, so this file is",
    "latentopt-encoder-1": "an encoder",
    "latentopt-refiner-1": "a refiner (--refine)",
    "latentopt-flow-1": "a flow network",
}
FIELDS_OF_OURS = (*(f"{group}/" for group in GROUPS), EARLIER)  # how the names of tensors beside `ws` begin
PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif")
PICTURE_SIDE = 32  # pixels at least, of what may be a picture


@dataclass(frozen=True, eq=False)
class LatentFile:
    """What a file holds: `images`, the inputs (a batch of 1) of each by its name in the file, "" where it has none.

    `generator` is what is on record of the one that they are for; `notes` say what was left out.
    """

    images: list[tuple[str, GeneratorInputs]]
    generator: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_made_with(where: str, record: Mapping[str, Any], generator: Generator, otherwise: str = "") -> None:
    """Raise CheckpointError, naming `where`, if the `record` of a file says that another generator made what it holds.

    otherwise: another remedy than to name that generator.
    """
    if record.get("fingerprint") not in (None, "", generator.fingerprint):
        raise CheckpointError(
            f"{where}: made with generator {record.get('name')!r} ({record.get('fingerprint')}), not with "
            f"{generator.name!r} ({generator.fingerprint}); name the one it was made with (--network FILE){otherwise}"
        )


def read_latents(
    path: Path, generator: Generator, check: Callable[[Mapping[str, str]], object] | None = None
) -> LatentFile:
    """The latents in a file, for `generator`, float32 on the CPU.

    check: called with what is on record of the generator that they are for, before the shapes are looked at.

    Raises UntrustedFileError, with how to save them again, for pickled ones; CheckpointError, naming file and remedy,
    for another kind of file, other shapes than the generator's, and values that are no finite real numbers.
    """
    arrays = read_arrays(path, "latents")
    if check is not None:
        check(arrays.metadata)
    reader = _Reader(path, generator, [f"{path}: left out: {entry}" for entry in arrays.left_out])
    if (form := arrays.metadata.get("format", "")) in OURS:
        raise CheckpointError(f"{path}: {OURS[form]}, not latents; latents are what latentopt invert finds")
    if isinstance(arrays.contents, dict) and _is_ours(arrays.contents, arrays.metadata):
        return LatentFile(_saved_inputs(path, arrays.contents, reader), dict(arrays.metadata), tuple(reader.notes))
    images = [
        (name, GeneratorInputs(ws, noise=noise)) for name, ws, noise in reader.images(arrays.contents, "", DEEPEST)
    ]
    return LatentFile(images, notes=tuple(dict.fromkeys(reader.notes)))


def _is_ours(tensors: Mapping[Any, Any], metadata: Mapping[str, str]) -> bool:
    """Whether these are saved `GeneratorInputs`."""
    fields = any(str(key).startswith(FIELDS_OF_OURS) for key in tensors)
    return isinstance(tensors.get("ws"), Tensor) and ("fingerprint" in metadata or "transform" in tensors or fields)


def _saved_inputs(path: Path, tensors: Mapping[Any, Any], reader: _Reader) -> list[tuple[str, GeneratorInputs]]:
    ws = reader.ws(tensors["ws"], "'ws'")
    others = {str(k): x for k, x in tensors.items() if str(k) == "transform" or str(k).startswith(FIELDS_OF_OURS)}
    check_tensors(others, len(ws), str(path))
    inputs = GeneratorInputs.from_tensors({**{name: x.detach().float() for name, x in others.items()}, "ws": ws})
    check_inputs(inputs, reader.generator, str(path))
    return [("", inputs.index([i])) for i in range(len(ws))]


Image = tuple[str, Tensor, dict[str, Tensor] | None]  # name, ws [1,L,C], noise


@dataclass(frozen=True)
class _Reader:
    path: Path
    generator: Generator
    notes: list[str]

    def images(self, contents: object, where: str, depth: int) -> Iterator[Image]:
        """The images in what was read; `where` is its place in the file. Raises CheckpointError."""
        if isinstance(contents, dict) and depth:
            yield from self._of_dict(contents, where, depth)
        elif isinstance(contents, list | tuple) and contents and depth:
            for i, entry in enumerate(contents):
                yield from self.images(entry, f"{where}[{i}]", depth - 1)
        elif isinstance(contents, Tensor):
            for ws in self.ws(contents, where).split(1):
                yield "", ws, None
        else:
            self._refuse(where, f"holds {summary(contents)}, no latents")

    def _of_dict(self, contents: Mapping[Any, Any], where: str, depth: int) -> Iterator[Image]:
        held = [key for key in contents if _may_hold(contents[key])]
        by_word = {str(key).lower(): key for key in held}
        known = next((by_word[word] for word in LATENT_KEYS if word in by_word), None)
        if known is not None:
            yield from self._of_entry(contents, known, where, depth)
            return
        found: list[Image] = []
        refused: list[tuple[object, CheckpointError]] = []
        for key in held:
            if str(key).lower() in MAPPED:
                self._refuse(
                    where, f"holds {str(key)!r}, which a mapping network takes; save the w that it makes of it"
                )
            try:
                inner = list(self.images(contents[key], _place(where, key), depth - 1))
            except CheckpointError as error:
                refused.append((key, error))
                continue
            found += [(plain_name(str(key)), ws, noise) for _, ws, noise in inner]
        if not found:
            if refused:
                raise refused[0][1]
            self._refuse(where, f"holds {summary(contents)}, no latents")
        self.notes.extend(f"left out: {error}" for _, error in refused)
        yield from found

    def _of_entry(self, contents: Mapping[Any, Any], known: object, where: str, depth: int) -> Iterator[Image]:
        """The latents under a key that says so, with what lies beside it: noise maps, names."""
        images = list(self.images(contents[known], _place(where, known), depth - 1))
        if features := [str(key) for key in contents if str(key).lower() in FEATURE_KEYS]:
            self.notes.append(f"{self.path}: {features[0]!r} (features) left out; the picture will differ")
        given = next((contents[key] for key in NOISE_KEYS if key in contents), None)
        noise = None if given is None else self._noise(given)
        texts = (contents[key] for key in NAME_KEYS if isinstance(contents.get(key), list | tuple))
        names = [plain_name(str(name)) for name in next(texts, [])]
        if len(names) != len(images):
            names = [name for name, _, _ in images]
        yield from ((name, ws, noise) for name, (_, ws, _) in zip(names, images, strict=True))

    def _noise(self, given: object) -> dict[str, Tensor] | None:
        """rosinality's list of noise maps, from coarse to fine, by the names of the layers."""
        maps = list(given.values()) if isinstance(given, dict) else given
        shapes = self.generator.noise_shapes
        if isinstance(maps, list | tuple) and len(maps) == len(shapes):
            found = dict(zip(shapes, maps, strict=True))
            if all(_is_map(x, shapes[name]) for name, x in found.items()):
                return {name: x.detach().float().reshape(1, 1, *shapes[name]) for name, x in found.items()}
        self.notes.append(f"{self.path}: its noise maps are not those of {self.generator.name!r}, and are left out")
        return None

    def ws(self, x: Tensor, where: str) -> Tensor:
        """A tensor as [N,L,C], one code repeated for all rows. Raises CheckpointError."""
        rows, dim = self.generator.num_ws, self.generator.w_dim
        shape = list(x.shape)
        if not x.numel():
            self._refuse(where, f"is empty ({shape})")
        if x.is_complex() or not x.is_floating_point():
            self._refuse(where, f"holds {summary(x)}, which are no real numbers; latents are floats")
        if shape and shape[-1] == dim and (len(shape) == 2 and shape[0] == rows):
            found = x[None]
        elif shape and shape[-1] == dim and (len(shape) <= 2 or shape[-2] == 1):
            found = x.reshape(-1, 1, dim).expand(-1, rows, -1)  # one code for all rows
        elif shape[-2:] == [rows, dim] or (shape and shape[-1] == rows * dim):
            found = x.reshape(-1, rows, dim)
        else:
            self._refuse(where, self._misfit(shape))
        found = found.detach().float().contiguous()
        if not found.isfinite().all():
            self._refuse(where, "holds values that are not finite (NaN or infinite); save it again from its tool")
        return found

    def _misfit(self, shape: list[int]) -> str:
        rows, dim = self.generator.num_ws, self.generator.w_dim
        takes = f"{self.generator.name!r} takes [{rows},{dim}], [N,{rows},{dim}] or one code [{dim}]"
        if shape[-2:] == [dim, rows] or (len(shape) == 3 and shape == [rows, dim, shape[2]]):
            return f"is {shape}: its axes are in another order; {takes}: save it transposed"
        short, long = sorted(shape[-2:]) if len(shape) >= 3 else (0, 0)
        if len(shape) >= 3 and shape[-3] in (1, 3, 4) and short >= PICTURE_SIDE and long <= 4 * short:
            return f"is {shape}, which looks like a picture, not latents; {PICTURE_REMEDY}"
        return f"is {shape}; {takes}. Latents of another generator: name theirs with --network"

    def _refuse(self, where: str, what: str) -> Any:
        raise CheckpointError(f"{self.path}: {f'entry {one_line(where)} ' if where else ''}{what}")


def _is_map(x: object, shape: tuple[int, int]) -> bool:
    if not isinstance(x, Tensor) or not x.is_floating_point() or not bool(x.isfinite().all()):
        return False
    return tuple(x.shape[-2:]) == shape and x.numel() == shape[0] * shape[1]


def _may_hold(value: object) -> bool:
    return isinstance(value, Tensor | dict | list | tuple | np.ndarray) and not (
        isinstance(value, list | tuple) and not any(_may_hold(entry) for entry in value)
    )


def _place(where: str, key: object) -> str:
    return f"{where}[{str(key)[:60]!r}]"


def plain_name(key: str) -> str:
    """The name of an image by its key: a file's name without folders and the suffix of a picture."""
    name = PurePosixPath(key.replace("\\", "/")).name or key
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and suffix.lower() in PICTURE_SUFFIXES else name
