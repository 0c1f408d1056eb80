"""A perceptual distance at several sizes, as restoration by `robust` needs it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from latentopt.errors import UsageError
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator, Term
from latentopt.types import View


class Pyramid(Term):
    """The perceptual distance summed over the image and its halvings by 2x2 means, down to `least` pixels, plus `l1`
    times the mean absolute difference at the coarsest: [B].

    net, size, weights   of the perceptual distance, as in `perceptual`; the image itself is no larger than `size`

    Source: Poirier-Ginter and Lalonde 2023, "Robust Unsupervised StyleGAN Image Restoration", section 3.4.
    """

    reads = {"weights": "file"}
    examples = ({"net": "bundled"}, {"net": "bundled", "least": 8, "l1": 0.0})

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        least: int = 16,
        l1: float = 0.1,
        net: str = "auto",
        size: int | None = None,
        weights: str | None = None,
    ) -> None:
        if least < 1:
            raise UsageError(f"pyramid: least must be at least 1 pixel, not {least}")
        if not 0 <= l1 < float("inf"):
            raise UsageError(f"pyramid: l1 must be a number of at least 0, not {l1}")
        self.features = PerceptualFeatures(generator, net, size, weights)
        self.network, self.least, self.l1 = self.features.network, least, l1
        with torch.no_grad():
            self.target = [self.features.units(level) for level in self.levels(target)]

    def levels(self, image: Tensor) -> list[Tensor]:
        """From fine to coarse, at least one."""
        found = [shrink(image, self.features.size)]
        while min(found[-1].shape[2:]) >= 2 * self.least:
            found.append(avg_pool2d(found[-1], 2))
        return found

    def __call__(self, view: View) -> Tensor:
        images = self.levels(view.image)
        pairs = zip(images, self.target, strict=True)
        total = torch.stack([self.features.distance_to(self.features.extract(x), units) for x, units in pairs]).sum(0)
        if not self.l1:
            return total
        return total + self.l1 * (images[-1] - self.levels(view.target)[-1]).abs().mean(dim=(1, 2, 3))

    def index(self, rows: Tensor) -> Pyramid:
        picked = copy.copy(self)
        picked.target = [[stage.index(rows) for stage in level] for level in self.target]
        return picked
