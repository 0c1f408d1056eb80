"""Perceptual distance: the bundled network's features, or LPIPS (Zhang et al. 2018) through the `lpips` package."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentopt.checkpoints.restricted_pickle import read_torch_file
from latentopt.errors import CheckpointError, MissingWeightsError, UsageError
from latentopt.perceptual.network import UnitFeatures, load_perceptual_net, stage_distance
from latentopt.protocols import Generator, Term
from latentopt.types import View

NETS = ("auto", "bundled", "lpips-vgg", "lpips-alex")


class Perceptual(Term):
    """Distance of deep features, [B].

    net      bundled: a network trained on the bundled portraits, shipped; lpips-vgg, lpips-alex: the published LPIPS, whose
             backbone is downloaded once; auto: bundled for a generator whose card says it drew portraits, else lpips-vgg
    size     images higher than this are shrunk first (area average); by default 256, and 64 for the bundled net
    weights  torchvision's file of the LPIPS backbone, where it should not be downloaded
    """

    reads = {"weights": "file"}

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        net: str = "auto",
        size: int | None = None,
        weights: str | None = None,
    ) -> None:
        if net not in NETS:
            raise UsageError(f"perceptual net {net!r} is not one of {', '.join(NETS)}")
        if size is not None and size < 16:
            raise UsageError(f"perceptual size must be at least 16 pixels, not {size}")
        if net == "auto":
            net = "bundled" if generator.card.get("data") == "portraits" else "lpips-vgg"
        self.size = size or (64 if net == "bundled" else 256)
        if net == "bundled":
            model, self.extract, self.weigh, self.compare = _bundled(target)
        else:
            model, self.extract, self.weigh, self.compare = _lpips(net.removeprefix("lpips-"), weights, target)
        self.network = f"{net} {weights_hash(model)}"
        with torch.no_grad():
            self.target = [UnitFeatures.of(stage) for stage in self.extract(self._shrink(target))]

    def _shrink(self, image: Tensor) -> Tensor:
        if image.shape[2] <= self.size:
            return image
        width = max(1, round(self.size * image.shape[3] / image.shape[2]))
        return F.interpolate(image, (self.size, width), mode="area")

    def __call__(self, view: View) -> Tensor:
        return self.weigh(self.extract(self._shrink(view.image)), self.target)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of two images [B,3,H,W], neither of them the target: [B], exactly 0 for equal ones, its gradient too."""
        return self.compare(self.extract(self._shrink(a)), self.extract(self._shrink(b)))

    def index(self, rows: Tensor) -> Perceptual:
        picked = object.__new__(Perceptual)
        picked.__dict__.update(self.__dict__, target=[stage.index(rows) for stage in self.target])
        return picked


def weights_hash(model: nn.Module) -> str:
    """Identifies a network's weights, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


Extract = Callable[[Tensor], list[Tensor]]
Weigh = Callable[[list[Tensor], list[UnitFeatures]], Tensor]
Compare = Callable[[list[Tensor], list[Tensor]], Tensor]


def _bundled(target: Tensor) -> tuple[nn.Module, Extract, Weigh, Compare]:
    net = load_perceptual_net("portraits").to(device=target.device, memory_format=torch.channels_last)
    weights = net.stage_weights.tolist()

    def extract(image: Tensor) -> list[Tensor]:
        return net.features(image.contiguous(memory_format=torch.channels_last))

    def weigh(features: list[Tensor], to: list[UnitFeatures]) -> Tensor:
        return sum(w * stage.distance(a) for w, a, stage in zip(weights, features, to, strict=True))

    def compare(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return sum(w * stage_distance(x, y) for w, x, y in zip(weights, a, b, strict=True))

    return net, extract, weigh, compare


def load_lpips(backbone: str, weights: str | None = None) -> nn.Module:
    """The `lpips` package's network, frozen, in eval mode; its backbone from `weights`, or downloaded once by torchvision.

    Raises MissingWeightsError when the backbone's weights cannot be had, CheckpointError when `weights` are none.
    """
    import lpips

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")  # lpips asks for weights in a deprecated way
        if weights is not None:
            model = lpips.LPIPS(net=backbone, verbose=False, pnet_rand=True)
            _load_backbone(model.net, Path(weights))
            return model.eval().requires_grad_(False)
        try:
            model = lpips.LPIPS(net=backbone, verbose=False)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:  # offline, or a broken file
            raise MissingWeightsError(
                f"the weights of LPIPS-{backbone} are not on this machine and could not be downloaded, or torchvision's copy "
                f"under {torch.hub.get_dir()} is damaged ({error}). Connect once; or name torchvision's file with "
                f"weights = '...' in the perceptual term; or use another distance: --terms l2=1, or net = 'bundled'"
            ) from error
    return model.eval().requires_grad_(False)


def _load_backbone(net: nn.Module, path: Path) -> None:
    """torchvision's weights (`features.N.weight`) into the slices of lpips (`sliceK.N.weight`)."""
    state = read_torch_file(path)
    try:
        for name, parameter in net.named_parameters():
            parameter.data.copy_(state[f"features.{name.split('.', 1)[1]}"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not torchvision's weights of this backbone ({error})") from error


def _lpips(backbone: str, weights: str | None, target: Tensor) -> tuple[nn.Module, Extract, Weigh, Compare]:
    """LPIPS weighs channels before it sums them, so its squared differences are formed."""
    import lpips

    model = load_lpips(backbone, weights).to(target.device)

    def extract(image: Tensor) -> list[Tensor]:
        return list(model.net(model.scaling_layer(image)))

    def weigh(features: list[Tensor], to: list[UnitFeatures]) -> Tensor:
        return distance(features, [stage.unit for stage in to])

    def compare(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return distance(a, [lpips.normalize_tensor(stage) for stage in b])

    def distance(features: list[Tensor], units: list[Tensor]) -> Tensor:
        differences = ((lpips.normalize_tensor(x) - y).square() for x, y in zip(features, units, strict=True))
        return sum(line(d).mean(dim=(1, 2, 3)) for line, d in zip(model.lins, differences, strict=True))

    return model, extract, weigh, compare
