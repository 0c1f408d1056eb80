"""Parts of the image that were not seen: inpainting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.errors import UsageError
from latentopt.operators.files import levels_of
from latentopt.protocols import Operator, Source

ROUNDING = 1e-4  # white of a coloured picture is a sum of three shares
LEAST_WHITE = 0.1  # of a mask's brightest place: of one drawn with levels 0 and 1 of 255, nothing would count


class Mask(Operator):
    """What the mask m in [0,1] shows of the image x: m x, grey (0) where nothing is seen. [B,C,H,W] of the same size.

    file  one mask for all images: white counts, or what is opaque of a picture with transparency; shrunk or enlarged
          to the image's size. Without it, every image has its own mask (its transparency); one that has none counts
          as a whole

    A measurement is m x, too: of pictures that are given whole, as files, what m does not show is taken away first.
    `of` makes it that of certain images; where images of another size come, after an operator that shrinks them, the
    mask is shrunk as well. Raises UsageError for a mask of another aspect than the image, and for one
    that shows nothing.
    """

    reads = {"file": "file"}
    examples = ({}, {"file": "mask.png"})

    def __init__(self, source: Source, *, file: str | None = None) -> None:
        self.mask: Tensor | None = None  # [B or 1,1,H,W]
        self.fill: Tensor | None = None  # [B,C,H,W]
        self.own = file is None
        if file is not None:
            self.mask = _mask_of(Path(file), source.resolution).to(source.device)

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.fill is None

    def of(self, mask: Tensor, fill: Tensor | None = None) -> Mask:
        """This, for images with the masks [B,1,H,W]; `fill` [B,C,H,W] stands where they do not show."""
        made = object.__new__(type(self))
        made.mask, made.fill, made.own = mask, fill, self.own
        return made

    def __call__(self, image: Tensor) -> Tensor:
        if self.mask is None:
            return image
        mask = resized_mask(self.mask.to(image), (image.shape[2], image.shape[3]))
        return mask * image if self.fill is None else self.fill + mask * (image - self.fill)

    def counted(self, measured: Tensor) -> Tensor:
        """What shows anything is taken as it is: it is m x already."""
        if self.mask is None:
            return measured
        seen = resized_mask(self.mask.to(measured), (measured.shape[2], measured.shape[3])) > 0
        return torch.where(seen, measured, torch.zeros_like(measured) if self.fill is None else self.fill)

    def index(self, rows: Tensor) -> Mask:
        if self.mask is None:
            return self
        mask = self.mask if len(self.mask) == 1 else self.mask[rows]
        return self.of(mask, None if self.fill is None else self.fill[rows])


def resized_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,1,h,w] at another size: means over areas, or pixels repeated."""
    if tuple(mask.shape[2:]) == tuple(size):
        return mask
    return interpolate(mask, size, mode="area" if mask.shape[2] >= size[0] else "nearest")


def _mask_of(path: Path, resolution: tuple[int, int]) -> Tensor:
    levels = levels_of(path)
    if not np.isfinite(levels).all() or levels.min() < -ROUNDING or levels.max() > 1 + ROUNDING:
        raise UsageError(f"{path}: a mask's values lie in [0,1], of which 1 counts and 0 does not")
    if 0 < levels.max() < LEAST_WHITE:
        raise UsageError(
            f"{path}: this mask is black nearly everywhere (its brightest place has {255 * levels.max():.3g} of 255): "
            "white counts, so multiply it"
        )
    height, width = levels.shape
    if abs(height * resolution[1] - width * resolution[0]) > max(resolution):
        wanted = "x".join(map(str, resolution))
        raise UsageError(f"{path}: a mask of {height}x{width} pixels has another aspect than images of {wanted}")
    mask = resized_mask(torch.from_numpy(levels.clip(0, 1))[None, None], resolution)
    if not mask.any():
        raise UsageError(f"{path}: this mask is black everywhere: nothing of the image would count (white counts)")
    return mask
