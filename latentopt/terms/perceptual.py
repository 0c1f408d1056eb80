"""Perceptual distance: the bundled network's features, or LPIPS (Zhang et al. 2018) through the `lpips` package."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import MissingWeightsError, UsageError
from latentopt.protocols import Generator, Term
from latentopt.terms.perceptual_net import UnitFeatures, load_perceptual_net
from latentopt.types import View

NETS = ("auto", "bundled", "lpips-vgg", "lpips-alex")


class Perceptual(Term):
    """Distance of deep features, [B].

    net   bundled: a network trained on the bundled portraits, shipped; lpips-vgg, lpips-alex: the published LPIPS, whose
          backbone is downloaded once; auto: bundled for a generator whose card says it drew portraits, else lpips-vgg
    size  images higher than this are shrunk first (area average); by default 256, and 64 for the bundled net
    """

    def __init__(self, generator: Generator, target: Tensor, *, net: str = "auto", size: int | None = None) -> None:
        if net not in NETS:
            raise UsageError(f"perceptual net {net!r} is not one of {', '.join(NETS)}")
        if net == "auto":
            net = "bundled" if generator.card.get("data") == "portraits" else "lpips-vgg"
        self.size = size or (64 if net == "bundled" else 256)
        self.extract, self.weigh = _bundled(target) if net == "bundled" else _lpips(net.removeprefix("lpips-"), target)
        with torch.no_grad():
            self.target = [UnitFeatures.of(stage) for stage in self.extract(self._shrink(target))]

    def _shrink(self, image: Tensor) -> Tensor:
        if image.shape[2] <= self.size:
            return image
        width = max(1, round(self.size * image.shape[3] / image.shape[2]))
        return F.interpolate(image, (self.size, width), mode="area")

    def __call__(self, view: View) -> Tensor:
        return self.weigh(self.extract(self._shrink(view.image)), self.target)

    def index(self, rows: Tensor) -> Perceptual:
        picked = object.__new__(Perceptual)
        picked.__dict__.update(self.__dict__, target=[stage.index(rows) for stage in self.target])
        return picked


Extract = Callable[[Tensor], list[Tensor]]
Weigh = Callable[[list[Tensor], list[UnitFeatures]], Tensor]


def _bundled(target: Tensor) -> tuple[Extract, Weigh]:
    net = load_perceptual_net("portraits").to(device=target.device, memory_format=torch.channels_last)
    weights = net.stage_weights.tolist()

    def extract(image: Tensor) -> list[Tensor]:
        return net.features(image.contiguous(memory_format=torch.channels_last))

    def weigh(features: list[Tensor], to: list[UnitFeatures]) -> Tensor:
        return sum(w * stage.distance(a) for w, a, stage in zip(weights, features, to, strict=True))

    return extract, weigh


def load_lpips(backbone: str) -> torch.nn.Module:
    """The `lpips` package's network, frozen, in eval mode. Raises MissingWeightsError when its weights cannot be had."""
    import lpips

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torchvision")  # lpips asks for weights in a deprecated way
            model = lpips.LPIPS(net=backbone, verbose=False)
    except OSError as error:  # URLError included
        raise MissingWeightsError(
            f"the weights of LPIPS-{backbone} are not on this machine and could not be downloaded ({error}). Connect once, or "
            f"put torchvision's file into the folder named by TORCH_HOME under hub/checkpoints; or use another distance: "
            f"--terms l2=1, or --terms perceptual=1 with --set stages.0.terms.0.net=bundled"
        ) from error
    return model.eval().requires_grad_(False)


def _lpips(backbone: str, target: Tensor) -> tuple[Extract, Weigh]:
    """LPIPS weighs channels before it sums them, so its squared differences are formed."""
    import lpips

    model = load_lpips(backbone).to(target.device)

    def extract(image: Tensor) -> list[Tensor]:
        return list(model.net(model.scaling_layer(image)))

    def weigh(features: list[Tensor], to: list[UnitFeatures]) -> Tensor:
        units = [lpips.normalize_tensor(stage) for stage in features]
        maps = (line((x - y.unit).square()) for line, x, y in zip(model.lins, units, to, strict=True))
        return sum(m.mean(dim=(1, 2, 3)) for m in maps)

    return extract, weigh
