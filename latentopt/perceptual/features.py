"""Deep features of images and the distance that they measure: the bundled network's, or LPIPS (Zhang et al. 2018).

B images; a stage s has features [B,C,h,w].
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentopt.errors import UsageError
from latentopt.perceptual.lpips_network import load_lpips
from latentopt.perceptual.network import PerceptualNet, UnitFeatures, load_perceptual_net, stage_distance, weights_hash
from latentopt.pictures.channels import in_colour
from latentopt.pictures.resizing import enlarge, shrink
from latentopt.protocols import Generator

LEAST = {"vgg": 16, "alex": 31}  # pixels, before a stage of the backbone has none left
NETS = ("auto", "bundled", "lpips-vgg", "lpips-alex")


def network_for(generator: Generator, published: str = "lpips-vgg") -> str:
    """`bundled` for a generator whose card says that it drew portraits, else the `published` network."""
    return "bundled" if generator.card.get("data") == "portraits" else published


def named_distance(generator: Generator, net: str = "auto", size: int | None = None) -> tuple[str, int]:
    """The network and the height of images that these settings of `PerceptualFeatures` stand for."""
    net = network_for(generator) if net == "auto" else net
    return net, size or (64 if net == "bundled" else 256)


class PerceptualFeatures:
    """The features of one network, and the distance of two images by them.

    net      bundled: a network trained on the bundled portraits, shipped; lpips-vgg, lpips-alex: the published LPIPS,
             whose backbone is downloaded once; auto: what `network_for` says
    size     images higher than this are shrunk first (area average); by default 256, and 64 for the bundled net
    weights  torchvision's file of the LPIPS backbone, where it should not be downloaded
    memory_format  of the bundled net; channels last is the quicker one, but torch.func cannot batch it

    `network` names the network with its weights' hash. Raises UsageError for values out of range, MissingWeightsError
    for a network that is not here, CheckpointError for `weights` that are none.
    """

    def __init__(
        self,
        generator: Generator,
        net: str = "auto",
        size: int | None = None,
        weights: str | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        if net not in NETS:
            raise UsageError(f"perceptual net {net!r} is not one of {', '.join(NETS)}")
        if size is not None and size < 16:
            raise UsageError(f"perceptual size must be at least 16 pixels, not {size}")
        net, self.size = named_distance(generator, net, size)
        self.stages: Stages
        if net == "bundled":
            self.stages = BundledStages(generator.device, memory_format)
        else:
            self.stages = LpipsStages(net.removeprefix("lpips-"), weights, generator.device)
        self.network = f"{net} {weights_hash(self.stages.net)}"

    @property
    def name(self) -> str:
        """The distance in words: its network and the height of the images that it compares."""
        return f"{self.network} at {self.size} pixels"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stages."""
        return self.stages.widths

    def extract(self, image: Tensor) -> list[Tensor]:
        """image [B,C,H,W] in [-1,1], shrunk to `size` -> the features of each stage, [B,C,h,w].

        Images that are too small for the network are enlarged.
        """
        return self.stages.extract(enlarge(shrink(in_colour(image), self.size), self.stages.least))

    def units(self, image: Tensor) -> list[UnitFeatures]:
        """The features of images [B,3,H,W] at length 1, to be kept for `distance_to`."""
        return [UnitFeatures.of(stage) for stage in self.extract(image)]

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Of two images [B,3,H,W]: [B], exactly 0 for equal ones, its gradient too."""
        return self.stages.compare(self.extract(a), self.extract(b))

    def distance_to(self, features: Sequence[Tensor], units: Sequence[UnitFeatures]) -> Tensor:
        """Of an image's features to another's that were kept: [B]."""
        return self.stages.compare_to(features, units)

    def coordinates(self, image: Tensor) -> list[Tensor]:
        """Features [B,C,h,w] of images, scaled so that their squared differences add up to the distance."""
        pairs = zip(self.extract(image), self.stages.weights, strict=True)
        return [UnitFeatures.of(x).unit * (weight / (x.shape[2] * x.shape[3])).sqrt() for x, weight in pairs]


class Stages(ABC):
    """A network whose stages are compared.

    `widths` are their channels; `weights` [C or 1,1,1] weigh a stage's squared differences; `least` is the smallest
    side that an image may have.
    """

    net: nn.Module
    widths: tuple[int, ...]
    weights: list[Tensor]
    least: int

    @abstractmethod
    def extract(self, image: Tensor) -> list[Tensor]:
        """image [B,3,H,W] in [-1,1] -> the features of each stage."""

    @abstractmethod
    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """The distance [B] of two images by their features."""

    @abstractmethod
    def compare_to(self, features: Sequence[Tensor], units: Sequence[UnitFeatures]) -> Tensor:
        """The distance [B] to an image whose features have length 1 already."""


class BundledStages(Stages):
    """The network trained on the bundled portraits, with one weight a stage."""

    net: PerceptualNet

    def __init__(self, device: torch.device, memory_format: torch.memory_format) -> None:
        self.memory_format = memory_format
        self.net = load_perceptual_net("portraits").to(device).to(memory_format=memory_format)
        self.widths = self.net.config.widths
        self.weights = [weight.reshape(1, 1, 1) for weight in self.net.stage_weights]
        self.scales = self.net.stage_weights.tolist()
        self.least = 2 ** (len(self.widths) - 1)  # each stage halves the sides

    def extract(self, image: Tensor) -> list[Tensor]:
        return self.net.features(image.contiguous(memory_format=self.memory_format))

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return _sum(scale * stage_distance(x, y) for scale, x, y in zip(self.scales, a, b, strict=True))

    def compare_to(self, features: Sequence[Tensor], units: Sequence[UnitFeatures]) -> Tensor:
        return _sum(scale * unit.distance(x) for scale, x, unit in zip(self.scales, features, units, strict=True))


class LpipsStages(Stages):
    """LPIPS weighs channels before it sums them, so its squared differences are formed."""

    net: Any  # the package has no types

    def __init__(self, backbone: str, weights: str | None, device: torch.device) -> None:
        self.net = load_lpips(backbone, weights).to(device)
        self.widths = tuple(self.net.chns)
        self.least = LEAST[backbone]
        self.weights = [line.model[-1].weight[0].clamp(min=0) for line in self.net.lins]

    def extract(self, image: Tensor) -> list[Tensor]:
        return list(self.net.net(self.net.scaling_layer(image)))

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return self._distance(a, [_normalized(stage) for stage in b])

    def compare_to(self, features: Sequence[Tensor], units: Sequence[UnitFeatures]) -> Tensor:
        return self._distance(features, [stage.unit for stage in units])

    def _distance(self, features: Sequence[Tensor], units: Sequence[Tensor]) -> Tensor:
        differences = ((_normalized(x) - unit).square() for x, unit in zip(features, units, strict=True))
        pairs = zip(self.net.lins, differences, strict=True)
        return _sum(line(d).mean(dim=(1, 2, 3)) for line, d in pairs)


def _normalized(features: Tensor) -> Tensor:
    """At length 1, as the package does it."""
    import lpips

    return lpips.normalize_tensor(features)


def _sum(values: Iterable[Tensor]) -> Tensor:
    return functools.reduce(operator.add, values)
