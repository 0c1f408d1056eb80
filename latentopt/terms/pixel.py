"""Pixel distances, within a mask where there is one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from latentopt.protocols import Generator, Term
from latentopt.types import View


class L2(Term):
    """Mean squared difference of images in [-1,1] (four times that of [0,1] images), over the mask's pixels.

    `size` shrinks both images to that height first (area average), as PULSE and the projectors do.
    """

    power = 2

    def __init__(self, generator: Generator, target: Tensor, *, size: int | None = None) -> None:
        self.size = size

    def __call__(self, view: View) -> Tensor:
        difference = view.image - view.target
        if self.size is not None and self.size < difference.shape[2]:
            width = max(1, round(self.size * difference.shape[3] / difference.shape[2]))
            difference = F.interpolate(difference, (self.size, width), mode="area")
        per_image = difference.abs().pow(self.power).mean(dim=(1, 2, 3))
        return per_image if view.mask is None else per_image / view.mask.mean(dim=(1, 2, 3)).clamp_min(1e-6)


class L1(L2):
    """Mean absolute difference, otherwise as `l2`."""

    power = 1
