"""Two distances for one picture: where it is what the generator can draw, and where it is not.

Source: the idea of Cao et al. 2023, "What Decreases Editing Capability? Domain-Specific Hybrid Refinement for Improved
GAN Inversion". B images, n samples.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.errors import UsageError
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator, Term
from latentopt.statistics.sampling import drawn_at_once, sample_w
from latentopt.types import GeneratorInputs, View

SEED = 0xD0A1
PROBES = 4  # samples, of which one stands apart and shows what the others cannot draw of it
AT_ONCE = 16
FINE = 5  # stages are fine up to this factor from the first


class Inside(Term):
    """Distance to the target where the generator can draw it, [B]: `l2` times the mean square and `lpips` times the
    perceptual distance, of an image that is the target elsewhere.

    The mask is found without face parsing: at every place, the target's deep features are compared with those of
    `samples` of the generator's own pictures there. It can be drawn where the nearest is no further than a picture of
    the generator's is from the others, at a `share` of its places.

    net, size, weights   of the perceptual distance, as in `perceptual`

    Raises UsageError for targets that are no pictures of the generator's size, such as measurements by an operator.
    """

    reads = {"weights": "file"}
    examples = ({"net": "bundled", "samples": 8}, {"net": "bundled", "samples": 16, "lpips": 0.0, "share": 1.0})

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        samples: int = 64,
        share: float = 0.95,
        l2: float = 1.0,
        lpips: float = 1.0,
        net: str = "auto",
        size: int | None = None,
        weights: str | None = None,
    ) -> None:
        name = type(self).__name__.lower()
        if samples < PROBES:
            raise UsageError(f"{name}: samples must be at least {PROBES}, not {samples}")
        if not 0 < share <= 1:
            raise UsageError(f"{name}: share is a part of the places above 0 and at most 1, not {share}")
        size_of_pictures = (generator.img_channels, *generator.resolution)
        if tuple(target.shape[1:]) != size_of_pictures:
            raise UsageError(
                f"{name}: it looks for what the generator can draw in whole pictures {list(size_of_pictures)}, not in "
                f"measurements {list(target.shape[1:])}: take another recipe for this operator"
            )
        self.features, self.l2, self.lpips = PerceptualFeatures(generator, net, size, weights), l2, lpips
        self.network = self.features.network
        with torch.no_grad():
            self.target = self.features.units(target)
            self.weight = self.of(drawable(generator, self.features, target, samples, share))  # [B,1,H,W]

    @staticmethod
    def of(mask: Tensor) -> Tensor:
        """What counts, of the mask of what can be drawn."""
        return mask

    def __call__(self, view: View) -> Tensor:
        difference = self.weight * (view.image - view.target)
        pixels = difference.square().mean(dim=(1, 2, 3))
        seen = self.features.extract(view.target + difference)
        return self.l2 * pixels + self.lpips * self.features.distance_to(seen, self.target)

    def index(self, rows: Tensor) -> Inside:
        picked = copy.copy(self)
        picked.target, picked.weight = [stage.index(rows) for stage in self.target], self.weight[rows]
        return picked


class Outside(Inside):
    """As `Inside`, where the generator can not draw the target."""

    @staticmethod
    def of(mask: Tensor) -> Tensor:
        return 1 - mask


@torch.no_grad()
def drawable(generator: Generator, features: PerceptualFeatures, target: Tensor, samples: int, share: float) -> Tensor:
    """1 where the generator can draw the target [B,C,H,W], else 0: [B,1,H,W]."""
    codes = sample_w(generator, SEED, samples)
    probes = max(2, samples // PROBES)
    own = _drawn(generator, codes[:probes])
    others = [_drawn(generator, part) for part in codes[probes:].split(AT_ONCE)]
    usual = _nearest(features, own, others).flatten().quantile(share)
    mask = torch.cat([_nearest(features, image[None], others) for image in target]) <= usual
    return interpolate(mask.to(target), target.shape[2:], mode="nearest")


def _nearest(features: PerceptualFeatures, image: Tensor, others: list[Tensor]) -> Tensor:
    """The squared distance of deep features to the nearest of the other pictures, place by place: [b,1,h,w]."""
    found = [_distances(features.coordinates(image), features.coordinates(part)) for part in others]
    return torch.cat(found, dim=1).amin(dim=1, keepdim=True)


def _distances(image: list[Tensor], others: list[Tensor]) -> Tensor:
    """[b,n,h,w] of the fine stages: the others see too much of the picture to tell places apart."""
    total, size = image[0].new_zeros([]), image[0].shape[2:]
    for a, b in zip(image, others, strict=True):  # [b,c,h,w], [n,c,h,w]
        if a.shape[2] * FINE < size[0]:
            continue
        squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None]
        apart = (squares - 2 * torch.einsum("bchw,nchw->bnhw", a, b)) * (a.shape[2] * a.shape[3])
        total = total + interpolate(apart, size, mode="bilinear")
    return total


def _drawn(generator: Generator, w: Tensor) -> Tensor:
    parts = w.split(drawn_at_once(generator, AT_ONCE))
    pictures = [generator.synthesis(GeneratorInputs(generator.broadcast(part))) for part in parts]
    return torch.cat(pictures).float().clamp(-1, 1)
