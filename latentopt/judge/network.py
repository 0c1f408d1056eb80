"""The judge: reads attributes, tells persons apart and gives features for distribution distances. Evaluation only.

It is another network than the one behind the perceptual loss (architecture, seed, training portraits, objective), so
that a method cannot score well by fooling the network that it was optimised with. No method may optimise through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize, silu

from latentopt.perceptual.network import DEGRADATIONS, at_resolution, weights_path
from latentopt.perceptual.network_file import load_network, save_network

FORMAT = "latentopt-judge-1"


@dataclass(frozen=True)
class JudgeConfig:
    """`attributes` are read in this order, those in `binary` as probabilities; `widths` are channels of the stages."""

    attributes: tuple[str, ...]
    binary: tuple[str, ...] = ()
    widths: tuple[int, ...] = (32, 64, 96, 128)
    num_features: int = 96
    identity_dim: int = 48
    resolution: int = 64


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), after He et al. 2016b (pre-activation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(silu(norm(y)))
        return x + y


class Judge(nn.Module):
    """Residual network with strided convolutions; images of any size are resized to `resolution` first."""

    mean: Tensor  # [A], as `std`, of the attributes in the training portraits
    std: Tensor
    binary: Tensor  # [A], which attributes are probabilities

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        body: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1)]
        for before, after in pairwise(widths):
            body += [ResidualBlock(before), nn.Conv2d(before, after, 3, stride=2, padding=1)]
        self.body = nn.Sequential(*body, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 24, 1))
        self.penultimate = nn.Linear(24 * 4 * 4, config.num_features)
        self.readout = nn.Linear(config.num_features, len(config.attributes) + len(DEGRADATIONS))
        self.identity = nn.Linear(config.num_features, config.identity_dim)
        self.register_buffer("mean", torch.zeros(len(config.attributes)))
        self.register_buffer("std", torch.ones(len(config.attributes)))
        self.register_buffer("binary", torch.tensor([name in config.binary for name in config.attributes]))

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.config.attributes

    @property
    def binary_attributes(self) -> tuple[str, ...]:
        return self.config.binary

    def features(self, image: Tensor) -> Tensor:
        """Features [B,F] of images [B,3,H,W] in [-1,1], for distances between sets of images."""
        x = self.body(at_resolution(image, self.config.resolution))
        return silu(self.penultimate(adaptive_avg_pool2d(x, 4).flatten(1)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised attributes (logits of binary ones), then the degradations: [B,A+2]; and identity [B,E]."""
        features = self.features(image)
        return self.readout(features), normalize(self.identity(features), dim=1)

    def read(self, image: Tensor) -> Tensor:
        """Attributes [B,A] of images [B,3,H,W] in [-1,1], in their own units; binary ones as probabilities."""
        raw = self(image)[0].float()[:, : len(self.mean)]
        return torch.where(self.binary, raw.sigmoid(), raw * self.std + self.mean)

    def embed(self, image: Tensor) -> Tensor:
        """Identity [B,E] of unit length: the dot product of two is their similarity in [-1,1]."""
        return self(image)[1].float()


def save_judge(path: Path, judge: Judge, card: dict[str, object]) -> None:
    """Write weights, configuration and the card (data, seeds, steps, command, licence, figures)."""
    save_network(path, judge, judge.config, card, FORMAT)


def load_judge(name: str) -> Judge:
    """A frozen judge in evaluation mode, on the CPU.

    Args:
        name: of a bundled domain, such as `portraits`, or the path of a `.safetensors` file.

    Raises:
        MissingWeightsError: no bundled judge of that name.
        CheckpointError: a file that is damaged or of another kind.
    """
    return load_network(weights_path(name, "judge"), FORMAT, "a judge", JudgeConfig, Judge)
