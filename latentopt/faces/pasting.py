"""`latentopt paste`: results and their edits back in the photographs that they were cut out of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, InversionFailed, UsageError
from latentopt.faces.aligning import levels_of
from latentopt.faces.alignment import Alignment
from latentopt.faces.blending import Seam, paste_face
from latentopt.faces.edited import Edited, find_edited, of_inversion, with_names
from latentopt.files.outputs import check_inside, workplace
from latentopt.pictures.decoding import MAX_PIXELS, Picture, decode
from latentopt.pictures.images import from_uint8, save_png
from latentopt.results.inversion import Inversion
from latentopt.watching.phases import counted, tell

Pastable = str | Path | Inversion | tuple[Tensor, Alignment]
"""A run's folder or a picture; a result; a picture [C,h,w] in [-1,1] with where it was."""


@dataclass(frozen=True, eq=False)
class Pasted:
    """A photograph with faces put back: its name, the picture [3 or 4,H,W] in [-1,1], the mask [1,H,W] in [0,1] of what
    may have changed, and the file that was written, if one was.
    """

    name: str
    image: Tensor
    mask: Tensor
    path: Path | None = None


def paste(
    edited: Pastable | Sequence[Pastable],
    photo: str | Path | None = None,
    *,
    seam: Seam | None = None,
    together: bool = False,
    alignment: Alignment | None = None,
    out: str | Path | None = None,
    on_pasted: Callable[[Pasted], object] = lambda pasted: None,
    on_failed: Callable[[str], object] = lambda reason: None,
    keep: bool = True,
) -> list[Pasted]:
    """Put aligned pictures back in the photographs that they were cut out of.

    edited: what `invert(..., align="faces")` returned, or the folder of such a run, or edited pictures, whose alignment
    is found beside them or in the result that they were made of; `alignment` is for those that have none. photo: the
    photograph, where it is not any more where it was. seam: how (`Seam`). together: all faces of a photograph in one
    picture, called after it. out: a folder for NAME.png. on_pasted, on_failed: told as it happens. keep: False returns
    nothing.

    Photographs are turned upright and brought to sRGB, as whenever they are read; their size and transparency stay, and
    every pixel outside the mask. Raises UsageError and ImageError for what cannot be meant, and InversionFailed, once
    all had their turn, where a photograph was missing or another one; its `results` are the others by name.
    """
    several = list(edited) if isinstance(edited, Sequence) and not isinstance(edited, str | tuple) else [edited]
    found = with_names([one for given in several for one in _opened(given, alignment)])
    if photo is not None and len({one.alignment.sha256 for one in found}) > 1:
        raise UsageError("--photo is one photograph, and the pictures are of several: paste them one after the other")
    folder, failed, done = None if out is None else Path(out), [], dict[str, Pasted]()
    with nullcontext() if folder is None else workplace(folder):
        for name, group in counted(_groups(found, together), "pasting", "pictures"):
            try:
                pasted = _pasted(name, group, None if photo is None else Path(photo), seam or Seam(), folder)
            except (ImageError, CheckpointError) as error:
                failed.append(f"{name}: {error}")
                on_failed(failed[-1])
                continue
            on_pasted(pasted)
            if keep:
                done[name] = pasted
    if failed:
        raise InversionFailed(f"{len(failed)} pictures failed: {'; '.join(failed[:5])}", done)
    return list(done.values())


def _opened(given: Pastable, alignment: Alignment | None) -> list[Edited]:
    if isinstance(given, Inversion):
        return [of_inversion(given)]
    if isinstance(given, tuple):
        image, where = given
        return [Edited(Path(where.photo).stem or "pasted", lambda: image, where)]
    return find_edited(Path(given), alignment)


def _groups(edited: Sequence[Edited], together: bool) -> list[tuple[str, list[Edited]]]:
    """What goes into one picture, by its name."""
    if not together:
        return [(one.name, [one]) for one in edited]
    groups: dict[str, list[Edited]] = {}
    for one in edited:
        groups.setdefault(one.alignment.sha256, []).append(one)
    named = with_names([Edited(Path(g[0].alignment.photo).stem, g[0].read, g[0].alignment) for g in groups.values()])
    return [(first.name, group) for first, group in zip(named, groups.values(), strict=True)]


def _pasted(name: str, group: Sequence[Edited], photo: Path | None, seam: Seam, folder: Path | None) -> Pasted:
    picture = photograph(group[0].alignment, photo)
    whole = levels_of(picture)  # [H,W,3 or 4]
    levels, mask = np.ascontiguousarray(whole[..., :3]), np.zeros(whole.shape[:2], np.float32)
    for one in group:
        try:
            levels, changed = paste_face(levels, one.read(), one.alignment.corners, seam)
        except UsageError as error:
            raise ImageError(str(error)) from error
        mask = np.maximum(mask, changed)
    whole = np.concatenate([levels, whole[..., 3:]], axis=-1)
    path = None if folder is None else folder / f"{name}.png"
    if path is not None and folder is not None:
        check_inside(folder, [f"{name}.png"])
        save_png(path, Image.fromarray(whole))
    return Pasted(name, from_uint8(whole), torch.from_numpy(mask)[None], path)


def photograph(alignment: Alignment, photo: Path | None = None) -> Picture:
    """The photograph of an aligned picture: where it was or, if it is named, `photo`, upright and in full.

    Raises ImageError where it is missing, has changed since, or has another size.
    """
    path = Path(alignment.file) if photo is None else photo
    if photo is None and not path.is_file():
        raise ImageError(f"its photograph {alignment.file} is not there any more; say where it is: --photo FILE")
    picture = decode(path, None, MAX_PIXELS)
    if picture.size != alignment.size:
        (height, width), (h, w) = picture.size, alignment.size
        raise ImageError(f"{path}: {width}x{height} pixels, and the photograph had {w}x{h}; give that one")
    if picture.sha256 != alignment.sha256:
        if photo is None:
            raise ImageError(f"{path}: has changed since; align it again, or take it as it is: --photo {path}")
        tell(f"{path}: another file than {alignment.photo} was, of the same size; taken as it is")
    for note in picture.notes:
        tell(f"{path}: {note}")
    return picture
