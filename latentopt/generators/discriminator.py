"""The StyleGAN2 discriminator: residual blocks with a minibatch standard deviation before the last layers.

Source: Karras et al. 2020, figure 7 (residual, plain and skip input); Karras et al. 2018 for the minibatch layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from latentopt.generators.config import NetworkConfig
from latentopt.generators.layers import Conv2d, FullyConnected, MappingNetwork
from latentopt.generators.ops import downsample2d, fir_filter


@dataclass(frozen=True)
class DiscriminatorConfig(NetworkConfig["Discriminator"]):
    """`channels` are the widths from coarse (4x4) to fine, the order of the generator's."""

    FILTER: ClassVar[str] = "resample_filter"
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = ("c_dim", "mbstd_num_channels", "mapping_layers")

    channels: tuple[int, ...]
    img_channels: int = 3
    const_size: tuple[int, int] = (4, 4)
    c_dim: int = 0
    cmap_dim: int | None = None
    mapping_layers: int = 8
    embed_features: int | None = None
    layer_features: int | None = None
    lr_multiplier: float = 0.01
    architecture: str = "resnet"
    conv_clamp: float | None = None
    mbstd_group_size: int | None = 4
    mbstd_num_channels: int = 1

    @property
    def map_features(self) -> int:
        """The width of the mapped label, 0 for a discriminator without labels."""
        return (self.cmap_dim or self.channels[0]) if self.c_dim else 0

    def build(self) -> Discriminator:
        return Discriminator(self)

    def least_tensors(self) -> int:
        return len(self.channels) + (self.mapping_layers if self.c_dim else 0)


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """Append `num_channels` maps of the spread within groups of images i, i + B/G, ... (biased variance).

    Raises ValueError when the batch is not a multiple of the group size.
    """
    batch, channels, height, width = x.shape
    group = batch if group_size is None else min(group_size, batch)
    if batch % group:
        raise ValueError(f"a batch of {batch} cannot be divided into groups of {group}")
    y = x.float().reshape(group, -1, num_channels, channels // num_channels, height, width)
    y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [B/G,F]
    y = y.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
    return torch.cat([x, y.to(x.dtype)], dim=1)


class DiscriminatorBlock(nn.Module):
    """conv0, down-sampling conv1, and the 1x1 residual branch."""

    def __init__(
        self, in_channels: int, out_channels: int, rgb_channels: int | None, architecture: str, clamp: float | None
    ) -> None:
        super().__init__()
        self.architecture = architecture
        if rgb_channels is not None:
            self.fromrgb = Conv2d(rgb_channels, in_channels, 1, activation="lrelu", conv_clamp=clamp)
        self.conv0 = Conv2d(in_channels, in_channels, 3, activation="lrelu", conv_clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, activation="lrelu", down=2, conv_clamp=clamp)
        if architecture == "resnet":
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: Tensor | None, image: Tensor | None, f: Tensor) -> Tensor:
        if hasattr(self, "fromrgb"):
            rgb = self.fromrgb(image)
            x = rgb if x is None else x + rgb
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x), f)
        return self.conv1(self.conv0(x), f, gain=math.sqrt(0.5)) + self.skip(x, f, gain=math.sqrt(0.5))


class DiscriminatorEpilogue(nn.Module):
    """The 4x4 end: minibatch standard deviation, convolution, two fully connected layers."""

    def __init__(self, config: DiscriminatorConfig, out_features: int) -> None:
        super().__init__()
        self.config, width = config, config.channels[0]
        if config.architecture == "skip":
            self.fromrgb = Conv2d(config.img_channels, width, 1, activation="lrelu")
        extra = config.mbstd_num_channels
        self.conv = Conv2d(width + extra, width, 3, activation="lrelu", conv_clamp=config.conv_clamp)
        self.fc = FullyConnected(width * math.prod(config.const_size), width, "lrelu")
        self.out = FullyConnected(width, out_features)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        x = x.float()
        if hasattr(self, "fromrgb"):
            x = x + self.fromrgb(image)
        if self.config.mbstd_num_channels:
            x = minibatch_std(x, self.config.mbstd_group_size, self.config.mbstd_num_channels)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(nn.Module):
    """forward(image [B,3,H,W] in [-1,1], c) -> logits [B,1]. All blocks but the 4x4 one are of type `low_precision`."""

    resample_filter: Tensor

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.low_precision: torch.dtype | None = None
        self.blocks: list[DiscriminatorBlock] = []
        for i in range(len(config.channels) - 1, 0, -1):
            has_rgb = config.architecture == "skip" or i == len(config.channels) - 1
            rgb_channels = config.img_channels if has_rgb else None
            block = DiscriminatorBlock(
                config.channels[i], config.channels[i - 1], rgb_channels, config.architecture, config.conv_clamp
            )
            self.add_module(f"b{4 << i}", block)
            self.blocks.append(block)
        self.b4 = DiscriminatorEpilogue(config, config.map_features or 1)
        if config.c_dim:
            self.mapping = MappingNetwork(
                0,
                config.c_dim,
                config.map_features,
                config.mapping_layers,
                config.embed_features,
                config.layer_features,
                config.lr_multiplier,
                track_w_avg=False,
            )
        self.register_buffer("resample_filter", fir_filter())

    def forward(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        x = self.features(image)
        image_small = image
        if self.config.architecture == "skip":
            for _ in self.blocks:
                image_small = downsample2d(image_small, self.resample_filter)
        logits = self.b4(x, image_small)
        if not self.config.c_dim:
            return logits
        cmap = self.mapping(None, c)
        return (logits * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])

    def features(self, image: Tensor, stop: int | None = None) -> Tensor:
        """Activations after the first `stop` blocks (all by default), the finest first. Raises ValueError for none."""
        x: Tensor | None = None
        image = image.to(self.low_precision or image.dtype)
        for block in self.blocks[:stop]:
            x = block(x, image, self.resample_filter)
            if self.config.architecture == "skip":
                image = downsample2d(image, self.resample_filter)
        if x is None:
            raise ValueError(f"stop must be at least 1, not {stop}")
        return x
