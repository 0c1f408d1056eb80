"""The network behind the embedded perceptual loss: a plain convolutional network trained to read attributes.

Distance: Zhang et al. 2018 (LPIPS), equation 1, with one weight per stage in place of one per channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, leaky_relu

from latentopt.errors import MissingWeightsError
from latentopt.perceptual.network_file import load_network, save_network
from latentopt.pictures.channels import in_colour

FORMAT = "latentopt-perceptual-1"
EPSILON = 1e-8
DEGRADATIONS = ("blur", "noise")  # read beside the attributes in training, so that the features notice both


@dataclass(frozen=True)
class PerceptualNetConfig:
    """`attributes` are read in this order, those in `binary` as probabilities; `widths` are channels of the stages."""

    attributes: tuple[str, ...]
    binary: tuple[str, ...] = ()
    widths: tuple[int, ...] = (32, 64, 128, 128, 128)
    resolution: int = 64


class PerceptualNet(nn.Module):
    """One 3x3 convolution per stage, each stage at half the size of the one before; attributes from a 4x4 summary.

    `mean` and `std` [A] standardise the attributes; `stage_weights` [S] weigh the stages in `perceptual_distance`.
    """

    mean: Tensor
    std: Tensor
    binary: Tensor
    stage_weights: Tensor

    def __init__(self, config: PerceptualNetConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (3, *config.widths[:-1])
        stages = [nn.Conv2d(i, o, 3, padding=1) for i, o in zip(inputs, config.widths, strict=True)]
        self.stages = nn.ModuleList(stages)
        self.summary = nn.Conv2d(config.widths[-1], 32, 1)
        self.hidden = nn.Linear(32 * 4 * 4, 128)
        self.readout = nn.Linear(128, len(config.attributes) + len(DEGRADATIONS))
        for convolution in stages:
            if not convolution.weight.is_meta:  # see `latentopt.devices.normal`
                nn.init.kaiming_normal_(convolution.weight, a=0.2)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        self.register_buffer("mean", torch.zeros(len(config.attributes)))
        self.register_buffer("std", torch.ones(len(config.attributes)))
        self.register_buffer("binary", torch.tensor([name in config.binary for name in config.attributes]))
        self.register_buffer("stage_weights", torch.full((len(config.widths),), 1 / len(config.widths)))

    def features(self, image: Tensor) -> list[Tensor]:
        """Features of each stage.

        Args:
            image: [B,3,H,W] in [-1,1]; sides of at least 2**(S-1) pixels.

        Returns:
            S tensors [B,widths[s],H/2**s,W/2**s].
        """
        stages, x = [], image
        for index, convolution in enumerate(self.stages):
            x = leaky_relu(convolution(avg_pool2d(x, 2) if index else x), 0.2)
            stages.append(x)
        return stages

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Standardised attributes (logits of binary ones), then the degradations: [B,A+2]; and no embedding."""
        return self.raw(self.features(image)), None

    def raw(self, features: Sequence[Tensor]) -> Tensor:
        """What `forward` reads, of the `features` of images: [B,A+2]."""
        x = leaky_relu(self.summary(features[-1]), 0.2)
        x = leaky_relu(self.hidden(adaptive_avg_pool2d(x, 4).flatten(1)), 0.2)
        return self.readout(x)

    def read(self, image: Tensor) -> Tensor:
        """Attributes [B,A] of images [B,3,H,W] in [-1,1]; other sizes are resized to the trained one first."""
        raw = self(at_resolution(image, self.config.resolution))[0].float()[:, : len(self.mean)]
        return torch.where(self.binary, raw.sigmoid(), raw * self.std + self.mean)


def at_resolution(image: Tensor, resolution: int) -> Tensor:
    """Images [B,C,H,W] in colour, resized to resolution x resolution, with a filter that does not alias."""
    image = in_colour(image)
    if image.shape[-2:] == (resolution, resolution):
        return image
    return interpolate(image, (resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


def perceptual_distance(net: PerceptualNet, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Distance [B] of two images by their `features`: 0 for equal ones, about 0.5 for two random portraits.

    d = sum over stages s of weight_s * mean over locations of ||a_s/||a_s|| - b_s/||b_s||||^2 (LPIPS, equation 1).
    """
    total = features_a[0].new_zeros(len(features_a[0]), dtype=torch.float32)  # [B]
    for weight, a, b in zip(net.stage_weights, features_a, features_b, strict=True):
        total = total + weight * stage_distance(a, b)
    return total


def stage_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of unit-normalised features [B,C,h,w], mean over locations: [B], each within [0,4]."""
    return (_unit(a.float()) - _unit(b.float())).square().sum(dim=1).mean(dim=(1, 2))


@dataclass(frozen=True)
class UnitFeatures:
    """One stage's features [B,C,h,w] at length 1, and their squared length [B,h,w]: 0 where there is nothing."""

    unit: Tensor
    length: Tensor

    @staticmethod
    def of(features: Tensor) -> UnitFeatures:
        unit = _unit(features.float())
        return UnitFeatures(unit, unit.square().sum(dim=1))

    def distance(self, a: Tensor) -> Tensor:
        """`stage_distance` to features `a`, expanded as |u|^2 + |v|^2 - 2 u.v: no normalised copy of `a` is made."""
        a = a.float()
        energy = a.square().sum(dim=1)  # [B,h,w]
        scale = (energy + EPSILON).rsqrt()
        dot = (a * self.unit).sum(dim=1) * scale
        return (energy * scale.square() + self.length - 2 * dot).mean(dim=(1, 2))

    def index(self, rows: Tensor) -> UnitFeatures:
        return UnitFeatures(self.unit[rows], self.length[rows])


def _unit(x: Tensor) -> Tensor:
    # The constant is inside the root: the gradient of a bare norm is infinite at zero.
    return x * (x.square().sum(dim=1, keepdim=True) + EPSILON).rsqrt()


def save_perceptual_net(path: Path, net: PerceptualNet, card: dict[str, object]) -> None:
    """Write weights, configuration and the card (data, seeds, steps, command, licence, figures)."""
    save_network(path, net, net.config, card, FORMAT)


def load_perceptual_net(name: str) -> PerceptualNet:
    """A frozen network in evaluation mode, on the CPU.

    Args:
        name: of a bundled domain, such as `portraits`, or the path of a `.safetensors` file.

    Raises:
        MissingWeightsError: no bundled network of that name.
        CheckpointError: a file that is damaged or of another kind.
    """
    return load_network(
        weights_path(name, "perceptual"), FORMAT, "a perceptual network", PerceptualNetConfig, PerceptualNet
    )


def weights_hash(net: nn.Module) -> str:
    """Identifies a network's weights, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_path(name: str, kind: str) -> Path:
    """The file of a bundled network, or `name` itself where it is a path."""
    if name.endswith(".safetensors"):
        return Path(name)
    path = Path(str(files("latentopt.bundled") / name / f"{kind}.safetensors"))
    if not path.is_file():
        raise MissingWeightsError(f"no bundled {kind} network {name!r}: {path} is not there; give a .safetensors file")
    return path
