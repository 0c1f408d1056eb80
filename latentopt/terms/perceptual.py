"""Perceptual distance to the target: the bundled network's, or LPIPS (Zhang et al. 2018)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator, Term
from latentopt.types import View


class Perceptual(Term):
    """Distance of deep features, [B].

    net      bundled: a network trained on the bundled portraits, shipped; lpips-vgg, lpips-alex: the published LPIPS,
             whose backbone is downloaded once; auto: bundled for a generator whose card says it drew portraits, else
             lpips-vgg
    size     images higher than this are shrunk first (area average); by default 256, and 64 for the bundled net
    weights  torchvision's file of the LPIPS backbone, where it should not be downloaded
    """

    reads = {"weights": "file"}
    examples = ({"net": "bundled"}, {"net": "bundled", "size": 16})

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        net: str = "auto",
        size: int | None = None,
        weights: str | None = None,
    ) -> None:
        self.features = PerceptualFeatures(generator, net, size, weights)
        self.network, self.distance = self.features.network, self.features.name
        with torch.no_grad():
            self.target = self.features.units(target)

    def __call__(self, view: View) -> Tensor:
        return self.features.distance_to(self.features.extract(view.image), self.target)

    def coordinates(self, image: Tensor) -> list[Tensor]:
        return self.features.coordinates(image)

    def index(self, rows: Tensor) -> Perceptual:
        picked = copy.copy(self)
        picked.target = [stage.index(rows) for stage in self.target]
        return picked
