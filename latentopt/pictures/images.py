"""Pictures in and out: the only place where images are 8-bit. Everywhere else they are float [C,H,W] in [-1,1].

C is 1 (grey), 3 (colour) or 4 (colour and opacity), as the generator's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentopt.errors import ImageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.run_files import DELTA_FILE as DELTA_FILE
from latentopt.files.run_files import RESULT_FILES as RESULT_FILES
from latentopt.files.run_files import RUN_FILES as RUN_FILES
from latentopt.files.run_files import SUMMARY_FILES as SUMMARY_FILES
from latentopt.files.storage import write_atomically
from latentopt.pictures.channels import to_grey
from latentopt.pictures.decoding import MAX_PIXELS, Picture, decode
from latentopt.pictures.fitting import Fit as Fit
from latentopt.pictures.fitting import fit_notes, fitted_mask, fitted_opacity, fitted_pixels

DRAWN_PIXELS = 1 << 24  # 4096 x 4096: no generator draws more

Alpha = Literal["composite", "mask"]


@dataclass(frozen=True)
class TargetImage:
    """A picture made ready for a generator.

    image [C,H,W] in [-1,1]; mask [1,H,W] in [0,1] (1 = counts) or None; notes say what was done to it;
    sha256 of the file's bytes; original_size (H,W), upright, before the fit. Where the picture is not known but only a
    measurement of it, `measured` [...] is that, and `image` merely shows it; `truth` is the picture that it was made of
    for a trial, if it was. `alignment` is the record of the square that was cut out of the file's picture
    (`latentopt.faces.alignment`), if one was.
    """

    image: Tensor
    mask: Tensor | None
    notes: tuple[str, ...]
    sha256: str
    original_size: tuple[int, int]
    measured: Tensor | None = None
    truth: Tensor | None = None
    alignment: Mapping[str, object] | None = None


def read_image(
    path: str | Path,
    resolution: tuple[int, int],
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    alpha: Alpha = "composite",
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    cut: Callable[[Picture], Picture] | None = None,
    uncovered: bool = False,
    any_shape: bool = False,
) -> TargetImage:
    """Read one picture and fit it to a generator of `resolution` (H,W), with an antialiasing (Lanczos) resize.

    fit: "crop" cuts the centre out in the generator's aspect (as NVIDIA's projector does for squares), "pad"
    letterboxes with `background`, "stretch" ignores the aspect. Transparency is composited on `background` (RGB,
    0..255); with alpha="mask" it becomes the mask, in which padding counts as transparent, and the background is only
    seen where nothing else is. channels: of the generator's images; 1 turns colours to grey, 4 keeps the transparency
    as the last channel, without a background. cut: takes a part of the picture before it is made to fit. uncovered: the
    colours that the file has beneath its transparency are taken instead of any background. any_shape: pictures of a few
    pixels and very narrow ones are taken.
    Raises ImageError, naming the file and the remedy, for whatever cannot be read or is no usable target.
    """
    path = Path(path)
    canvas = None if channels == 4 or uncovered else background
    whole = decode(path, canvas, max_pixels, any_shape=any_shape, only_hidden=alpha == "mask")
    picture = whole if cut is None else cut(whole)
    notes = list(picture.notes)
    pixels = fitted_pixels(picture, resolution, fit, background)  # [3,H,W]
    if channels == 1:
        grey = to_grey(pixels)
        notes += [] if grey.base is pixels else ["colours turned to grey"]
        pixels = grey
    if channels == 4:
        pixels = np.concatenate([pixels, fitted_opacity(picture, resolution, fit)])
    mask = fitted_mask(picture.alpha, picture.size, resolution, fit) if alpha == "mask" else None
    if mask is not None and not bool(mask.any()):
        raise ImageError(f"{path}: wholly transparent; nothing would count. Use alpha='composite', or another picture")
    notes += fit_notes(picture.size, resolution, fit)
    image = from_levels(torch.from_numpy(pixels.clip(0, 255)))
    return TargetImage(image, mask, tuple(notes), whole.sha256, whole.size)


def from_levels(levels: Tensor) -> Tensor:
    """Grey levels in [0,255] to [-1,1]."""
    return levels.float() / 127.5 - 1


def from_uint8(image: np.ndarray) -> Tensor:
    """8-bit [...,H,W,C] to float [...,C,H,W] in [-1,1]; `to_uint8` brings it back exactly."""
    return from_levels(torch.from_numpy(np.array(image, np.uint8)).movedim(-1, -3)).contiguous()


def to_uint8(image: Tensor) -> np.ndarray:
    """[...,C,H,W] in [-1,1] to uint8 [...,H,W,C], rounded to the nearest level, the rest clipped.

    Raises ImageError where a value is not a number.
    """
    levels = image.detach().float().cpu() * 127.5 + 128  # + 0.5 for rounding: the cast cuts off
    if bool(levels.isnan().any()):
        raise ImageError("an image holds values that are not numbers (NaN); it is not written")
    return levels.clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def difference_as_saved(image: Tensor, target: Tensor) -> Tensor:
    """image - target, of the same shape; 0 where the target is 1 or -1 and the image lies beyond it, since it is cut
    there when it is saved.
    """
    beyond = ((target == 1) & (image > 1)) | ((target == -1) & (image < -1))
    return (image - target).masked_fill(beyond, 0)


def to_pil(image: Tensor) -> Image.Image:
    """[C,H,W] in [-1,1] to a Pillow picture: grey, RGB or RGBA."""
    levels = to_uint8(image)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def save_png(path: str | Path, image: Tensor | Image.Image) -> None:
    """Write [C,H,W] in [-1,1] as an 8-bit PNG: complete, or not at all.

    Raises LatentoptError, naming `path`, where it cannot be written.
    """
    path = Path(path)
    picture = to_pil(image) if isinstance(image, Tensor) else image
    with clear_write_errors(path):
        write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def read_png(path: str | Path) -> Tensor:
    """What `save_png` wrote, [C,H,W] in [-1,1] on 8-bit levels. Raises ImageError naming `path`."""
    if not Path(path).is_file():
        raise ImageError(f"{path}: no such file")
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.width * picture.height > DRAWN_PIXELS:
                raise ValueError(f"{picture.width}x{picture.height} pixels, more than generators draw")
            levels = np.asarray(picture if picture.mode in ("L", "RGB", "RGBA") else picture.convert("RGB"))
    except Exception as error:  # a damaged file may raise anything
        raise ImageError(f"{path}: not a readable PNG ({error})") from error
    return from_uint8(levels if levels.ndim == 3 else levels[..., None])
