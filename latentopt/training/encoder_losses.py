"""The losses of encoder training.

Source: Richardson et al. 2021 (pSp), Tov et al. 2021 (e4e): equations 1, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from latentopt.perceptual.features import PerceptualFeatures, network_for
from latentopt.perceptual.network import UnitFeatures
from latentopt.protocols import Generator

FeatureNet = Callable[[Tensor], Tensor]
"""A frozen network: images [B,3,H,W] in [-1,1] -> features [B,D], compared by their cosine."""

TOP_SIZE = 4  # side to which the perceptual network's last features are pooled


@dataclass(frozen=True)
class Target:
    """Images [B,3,H,W] to be reconstructed, and what the losses need of them, found once."""

    image: Tensor
    stages: list[UnitFeatures]
    top: Tensor  # [B,D]


class Distortion:
    """L2, perceptual distance and dissimilarity of images (equation 5).

    The similarity is that of the features of `similarity`; where it is not given, of the perceptual network's own last
    features, pooled to 4x4. `perceptual` is a net of the perceptual term; auto: the bundled one for generators of the
    bundled domain, else LPIPS-Alex, as in the papers.
    """

    def __init__(self, generator: Generator, perceptual: str = "auto", similarity: FeatureNet | None = None) -> None:
        net = network_for(generator, "lpips-alex") if perceptual == "auto" else perceptual
        self.features = PerceptualFeatures(generator, net)
        self.similarity = similarity

    @torch.no_grad()
    def target(self, image: Tensor) -> Target:
        """What is to be reconstructed, images [B,3,H,W] in [-1,1]."""
        features = self.features.extract(image)
        return Target(image, [UnitFeatures.of(stage) for stage in features], self._top(image, features))

    def __call__(self, image: Tensor, target: Target) -> dict[str, Tensor]:
        """Images [B,3,H,W] in [-1,1] -> batch means of `l2`, `perceptual` and `similarity` (which is 1 - cosine)."""
        features = self.features.extract(image)
        return {
            "l2": (image - target.image).square().mean(),
            "perceptual": self.features.distance_to(features, target.stages).mean(),
            "similarity": 1 - cosine_similarity(self._top(image, features), target.top).mean(),
        }

    def _top(self, image: Tensor, features: list[Tensor]) -> Tensor:
        if self.similarity is not None:
            return self.similarity(image).float()
        return adaptive_avg_pool2d(features[-1].float(), TOP_SIZE).flatten(1)


def delta_regularization(codes: Tensor, rows: int) -> Tensor:
    """The L2 norms of the offsets from row 0 of the first `rows` rows of codes [B,L,C]: their sum, the batch mean.

    Equation 1. Rows that do not differ from row 0 give neither loss nor gradient.
    """
    offsets = codes[:, 1:rows] - codes[:, :1]
    return torch.linalg.vector_norm(offsets, dim=2).sum(dim=1).mean()
