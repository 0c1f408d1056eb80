"""Pixel distances, within a mask where there is one."""

from __future__ import annotations

from torch import Tensor

from latentopt.errors import UsageError
from latentopt.pictures.images import difference_as_saved
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator, Term
from latentopt.types import View


class L2(Term):
    """Mean squared difference of images in [-1,1] (four times that of [0,1] images).

    A mask m makes it the mean of (m d)^2 over that of m^2: the mean over the pixels that count.

    `size` shrinks both images to that height first (area average), as PULSE and the projectors do.
    """

    power = 2
    examples = ({}, {"size": 8})

    def __init__(self, generator: Generator, target: Tensor, *, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise UsageError(f"size must be at least 1 pixel, not {size}")
        self.size = size

    def index(self, rows: Tensor) -> L2:
        return self

    def __call__(self, view: View) -> Tensor:
        difference = self.difference(view.image, view.target)
        if self.size is not None and difference.ndim == 4:
            difference = shrink(difference, self.size)
        per_image = difference.abs().pow(self.power).mean(dim=tuple(range(1, difference.ndim)))
        if view.mask is None:
            return per_image
        return per_image / view.mask.pow(self.power).mean(dim=(1, 2, 3)).clamp_min(1e-6)

    @staticmethod
    def difference(image: Tensor, target: Tensor) -> Tensor:
        return image - target


class L1(L2):
    """Mean absolute difference, otherwise as `l2`."""

    power = 1


class SaturatedL2(L2):
    """As `l2`, but a colour of the target that is as bright or as dark as can be asks for no less than that: what is
    drawn beyond costs nothing, since a picture is cut there when it is saved.
    """

    @staticmethod
    def difference(image: Tensor, target: Tensor) -> Tensor:
        return difference_as_saved(image, target)
