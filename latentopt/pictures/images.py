"""Pictures in and out: the only place where images are 8-bit. Everywhere else they are float [3,H,W] in [-1,1]."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentopt.errors import ImageError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_atomically
from latentopt.pictures.decoding import MAX_PIXELS, decode
from latentopt.pictures.fitting import Fit as Fit
from latentopt.pictures.fitting import fit_notes, fitted, fitted_mask

SUFFIXES = frozenset((".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"))
RUN_FILES = (
    "target.png",
    "proj.png",
    "projected_w.npz",
    "inputs.safetensors",
    "recipe.toml",
    "history.jsonl",
    "run.json",
)
SUMMARY_FILES = ("summary.csv", "index.html", "grid.png")
DELTA_FILE = "delta.safetensors"  # of a result whose generator was tuned
RESULT_FILES = frozenset((*RUN_FILES, DELTA_FILE, *SUMMARY_FILES))

DRAWN_PIXELS = 1 << 24  # 4096 x 4096: no generator draws more

Alpha = Literal["composite", "mask"]


@dataclass(frozen=True)
class ImageSource:
    """A picture to invert: its file, and `key`, the name of its results relative to the output folder."""

    path: Path
    key: str


@dataclass(frozen=True)
class TargetImage:
    """A picture made ready for a generator.

    image [3,H,W] in [-1,1]; mask [1,H,W] in [0,1] (1 = counts) or None; notes say what was done to it;
    sha256 of the file's bytes; original_size (H,W), upright, before the fit.
    """

    image: Tensor
    mask: Tensor | None
    notes: tuple[str, ...]
    sha256: str
    original_size: tuple[int, int]


def find_images(sources: Sequence[str | Path]) -> list[ImageSource]:
    """The pictures named by files, folders (searched through, in name order) and glob patterns, each file once.

    Keys keep relative paths, spaces and Unicode, and stay distinct on file systems that ignore case: a clash gets
    -2, -3. Hidden files and folders that hold latentopt's own results are passed over.
    Raises UsageError, naming the source, where it gives nothing.
    """
    found: dict[str, ImageSource] = {}
    taken: set[str] = set()
    for source in sources:
        pairs = list(_expand(source))
        if not pairs:
            raise UsageError(f"{source}: no images found there (looked for {' '.join(sorted(SUFFIXES))})")
        for path, relative in pairs:
            absolute = os.path.abspath(path)  # noqa: PTH100 (a link and what it points to are two pictures)
            if absolute not in found:
                found[absolute] = ImageSource(path, _distinct_key(relative, taken))
    return list(found.values())


def _expand(source: str | Path) -> Iterator[tuple[Path, Path]]:
    """(file, name relative to the source) of each picture."""
    path = Path(source).expanduser()
    if path.is_dir():
        for file in _walk(path):
            yield file, file.relative_to(path)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(str(source)):
        root = _fixed_part(path)
        for name in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 (Path.glob takes no absolute pattern)
            file = Path(name)
            if file.is_file() and file.suffix.lower() in SUFFIXES:
                yield file, file.relative_to(root)
    else:
        raise UsageError(f"{source}: no such file or folder")


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob pattern before its first wildcard."""
    parts = pattern.parts[:-1]
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:magic])


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        if Path(folder) != root and _is_result(names):
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder) / name


def _is_result(names: Sequence[str]) -> bool:
    return {"run.json", "proj.png"} <= set(names) or {"summary.csv", "grid.png"} <= set(names)


def _distinct_key(relative: Path, taken: set[str]) -> str:
    parts = [part + "_" if _reserved(part) else part for part in (*relative.parent.parts, relative.stem)]
    key = stem = os.fsencode("/".join(parts)).decode("utf-8", "replace")  # a name need not be valid Unicode
    number = 1
    while _folded(key) in taken:
        number += 1
        key = f"{stem}-{number}"
    taken.add(_folded(key))
    return key


def _reserved(part: str) -> bool:
    """A result file's name, or dots that would lead out of the output folder."""
    return _folded(part) in RESULT_FILES or not part.strip(".")


def _folded(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()


def read_image(
    path: str | Path,
    resolution: tuple[int, int],
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    alpha: Alpha = "composite",
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
) -> TargetImage:
    """Read one picture and fit it to a generator of `resolution` (H,W), with an antialiasing (Lanczos) resize.

    fit: "crop" cuts the centre out in the generator's aspect (as NVIDIA's projector does for squares), "pad"
    letterboxes with `background`, "stretch" ignores the aspect. Transparency is composited on `background` (RGB,
    0..255); with alpha="mask" it also becomes the mask, in which padding counts as transparent.
    Raises ImageError, naming the file and the remedy, for whatever cannot be read or is no usable target.
    """
    path = Path(path)
    picture = decode(path, background, max_pixels)
    notes = list(picture.notes)
    colour = [
        fitted(channel, resolution, fit, level) for channel, level in zip(picture.channels, background, strict=True)
    ]
    pixels = np.stack([np.asarray(channel, np.float32) for channel in colour])  # [3,H,W]
    mask = fitted_mask(picture.alpha, picture.size, resolution, fit) if alpha == "mask" else None
    if mask is not None and not bool(mask.any()):
        raise ImageError(f"{path}: wholly transparent; nothing would count. Use alpha='composite', or another picture")
    notes += fit_notes(picture.size, resolution, fit)
    image = from_levels(torch.from_numpy(pixels.clip(0, 255)))
    return TargetImage(image, mask, tuple(notes), picture.sha256, picture.size)


def from_levels(levels: Tensor) -> Tensor:
    """Grey levels in [0,255] to [-1,1]."""
    return levels.float() / 127.5 - 1


def from_uint8(image: np.ndarray) -> Tensor:
    """8-bit [...,H,W,3] to float [...,3,H,W] in [-1,1]; `to_uint8` brings it back exactly."""
    return from_levels(torch.from_numpy(np.array(image, np.uint8)).movedim(-1, -3)).contiguous()


def to_uint8(image: Tensor) -> np.ndarray:
    """[...,3,H,W] (or one channel) in [-1,1] to uint8 [...,H,W,3], rounded to the nearest level, the rest clipped.

    Raises ImageError where a value is not a number.
    """
    levels = image.detach().float().cpu() * 127.5 + 128  # + 0.5 for rounding: the cast cuts off
    if bool(levels.isnan().any()):
        raise ImageError("an image holds values that are not numbers (NaN); it is not written")
    return levels.clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def to_pil(image: Tensor) -> Image.Image:
    """[3,H,W] or [1,H,W] in [-1,1] to a Pillow picture, RGB or grey."""
    levels = to_uint8(image)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def save_png(path: str | Path, image: Tensor | Image.Image) -> None:
    """Write [3,H,W] or [1,H,W] in [-1,1] as an 8-bit PNG: complete, or not at all.

    Raises LatentoptError, naming `path`, where it cannot be written.
    """
    path = Path(path)
    picture = to_pil(image) if isinstance(image, Tensor) else image
    with clear_write_errors(path):
        write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def read_png(path: str | Path) -> Tensor:
    """What `save_png` wrote, [3,H,W] (or [1,H,W]) in [-1,1] on 8-bit levels. Raises ImageError naming `path`."""
    if not Path(path).is_file():
        raise ImageError(f"{path}: no such file")
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.width * picture.height > DRAWN_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels, more than generators draw")
            levels = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    except Exception as error:  # a damaged file may raise anything
        raise ImageError(f"{path}: not a readable PNG ({error})") from error
    return from_uint8(levels if levels.ndim == 3 else levels[..., None])
