"""`latentopt align`: every face of photographs as a picture of its own, each with the record of where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from latentopt.errors import ImageError, InversionFailed, UsageError
from latentopt.faces.aligner import FACES, Aligner, Placed, placed
from latentopt.faces.alignment import Alignment
from latentopt.faces.cutting import cut, to_mode
from latentopt.faces.given import Given, given_points
from latentopt.files.outputs import check_inside, workplace
from latentopt.pictures.decoding import MAX_PIXELS, Picture, decode
from latentopt.pictures.finding import find_images
from latentopt.pictures.images import from_uint8, save_png
from latentopt.watching.phases import phase

SMALLEST, LARGEST = 8, 4096  # pixels of an aligned picture


@dataclass(frozen=True, eq=False)
class Aligned:
    """One face: the name of its picture, that picture [C,size,size] in [-1,1] (C is 4 where the photograph is
    transparent somewhere), where it was, and the file that was written, if one was.
    """

    name: str
    image: Tensor
    alignment: Alignment
    path: Path | None = None


def align(
    images: str | Path | Sequence[str | Path],
    how: str = FACES,
    *,
    points: str | Given | None = None,
    detector: str = "blazeface",
    largest: bool = False,
    size: int = 1024,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_aligned: Callable[[Aligned], object] = lambda aligned: None,
    on_failed: Callable[[ImageError], object] = lambda error: None,
    keep: bool = True,
) -> list[Aligned]:
    """Cut the faces out of photographs as those of FFHQ were.

    images: files, folders and globs. how: "faces", or "box:X,Y,SIZE" for one square of each photograph, by its top left
    corner. points: those of faces found elsewhere, a file of them (`latentopt.faces.given`), or {name: [points [4,2]]};
    they go before `how`. detector: what finds faces. largest: only the largest face of each. size: of the pictures.
    out: a folder, in which each face becomes NAME.png and NAME.json; with several faces in a photograph, NAME-1 and so
    on. overwrite: also files there that are another photograph's. on_aligned, on_failed: told as it happens. keep:
    False returns nothing.

    Raises UsageError for what cannot be meant, and InversionFailed, once all had their turn, where photographs could
    not be read or have no face; its `results` are the others by name.
    """
    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"a size of {size} pixels; from {SMALLEST} to {LARGEST}")
    given = given_points(points) if isinstance(points, str) else dict(points or {})
    aligner, sources = Aligner(how, given, detector, largest), find_images(_listed(images))
    if aligner.idle:
        raise UsageError("--align none leaves every picture as it is: nothing to do")
    folder, failed, found = None if out is None else Path(out), [], {}
    with nullcontext() if folder is None else workplace(folder), phase("aligning", len(sources), "pictures") as advance:
        for place in placed(sources, aligner, advance):
            try:
                aligned = _cut(place, size, folder, overwrite)
            except ImageError as error:
                failed.append(error)
                on_failed(error)
                continue
            on_aligned(aligned)
            if keep:
                found[aligned.name] = aligned
    if failed:
        reasons = "; ".join(str(error) for error in failed[:5])
        raise InversionFailed(f"{len(failed)} of {len(sources)} pictures failed: {reasons}", found)
    return list(found.values())


def _listed(images: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [images] if isinstance(images, str | Path) else list(images)


def _cut(place: Placed, size: int, folder: Path | None, overwrite: bool) -> Aligned:
    """One face, written where there is a folder. Raises ImageError where there is none, or files stand in its way."""
    if place.error is not None:
        raise place.error
    if place.alignment is None:  # points of other photographs alone were given
        raise ImageError(f"{place.source.path}: no points are given for it")
    if folder is not None:
        check_inside(folder, [place.key])
        if not overwrite:
            _check_free(folder, place.key, place.alignment)
    levels = levels_of(cut(decode(place.source.path, None, MAX_PIXELS), place.alignment, size))
    path = None if folder is None else folder / f"{place.key}.png"
    if path is not None:
        save_png(path, Image.fromarray(levels))
        place.alignment.save(record_path(path))
    return Aligned(place.key, from_uint8(levels), place.alignment, path)


def record_path(picture: Path) -> Path:
    """Where the alignment of an aligned picture lies."""
    return picture.with_name(f"{picture.stem}.json")


def _check_free(folder: Path, key: str, alignment: Alignment) -> None:
    """Raise ImageError where a file would be lost that is not this photograph's."""
    path = folder / f"{key}.png"
    if not path.exists() and not record_path(path).exists():
        return
    try:
        earlier = Alignment.load(record_path(path))
    except ImageError:
        earlier = None
    if earlier is None or (earlier.sha256 != alignment.sha256 and earlier.file != alignment.file):
        raise ImageError(
            f"{alignment.file}: {path} is another picture's; choose another --outdir, or replace it (--overwrite)"
        )


def levels_of(picture: Picture) -> np.ndarray:
    """8-bit levels [H,W,3], or [H,W,4] with the opacity where it is transparent somewhere."""
    planes = [*picture.channels, *([] if picture.alpha is None else [picture.alpha])]
    return np.stack([np.asarray(to_mode(plane, "L")) for plane in planes], axis=-1)
