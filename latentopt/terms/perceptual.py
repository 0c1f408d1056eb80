"""Perceptual distance: the bundled network's features, or LPIPS (Zhang et al. 2018) through the `lpips` package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import MissingWeightsError, UsageError
from latentopt.protocols import Generator, Term
from latentopt.types import View

NETS = ("auto", "bundled", "lpips-vgg", "lpips-alex")
Features = list[Tensor]


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
        self.extract, self.distance = (
            _bundled(target) if net == "bundled" else _lpips(net.removeprefix("lpips-"), target)
        )
        with torch.no_grad():
            self.target_features = self.extract(self._shrink(target))

    def _shrink(self, image: Tensor) -> Tensor:
        if image.shape[2] <= self.size:
            return image
        width = max(1, round(self.size * image.shape[3] / image.shape[2]))
        return F.interpolate(image, (self.size, width), mode="area")

    def __call__(self, view: View) -> Tensor:
        return self.distance(self.extract(self._shrink(view.image)), self.target_features)

    def index(self, rows: Tensor) -> Perceptual:
        picked = object.__new__(Perceptual)
        picked.__dict__.update(self.__dict__, target_features=[f[rows] for f in self.target_features])
        return picked


def _bundled(target: Tensor) -> tuple[Callable[[Tensor], Features], Callable[[Features, Features], Tensor]]:
    from latentopt.terms.perceptual_net import load_perceptual_net, perceptual_distance

    net = load_perceptual_net("portraits").to(target.device)
    return net.features, lambda a, b: perceptual_distance(net, a, b)


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


def _lpips(
    backbone: str, target: Tensor
) -> tuple[Callable[[Tensor], Features], Callable[[Features, Features], Tensor]]:
    model = load_lpips(backbone).to(target.device)
    import lpips

    def extract(image: Tensor) -> Features:
        return [lpips.normalize_tensor(f) for f in model.net(model.scaling_layer(image))]

    def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        maps = (line((x - y).square()).mean(dim=(1, 2, 3)) for line, x, y in zip(model.lins, a, b, strict=True))
        return sum(maps)

    return extract, distance
