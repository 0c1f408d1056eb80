"""Trunks of encoders: three maps [B,c,h,w] each, at a quarter, an eighth and a sixteenth of the size.

IR-SE-50: Deng et al. 2019 (ArcFace) with squeeze-and-excitation; ResNet-34: He et al. 2016, as ReStyle uses it. Names
of weights are those of the released pSp, e4e and ReStyle files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

SE_REDUCTION = 16
NORM_GROUPS = 8


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole picture holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SE_REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SE_REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()  # [B,c,1,1]
        return x * weights


class ImprovedUnit(nn.Module):
    """One residual unit of IR-SE-50; its second convolution carries the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcitation(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        # of equal widths, also under a stride (the very first unit), the shortcut has no weights
        shortcut = self.shortcut_layer(x) if hasattr(self, "shortcut_layer") else x[..., :: self.stride, :: self.stride]
        return self.res_layer(x) + shortcut


class BasicBlock(nn.Module):
    """One residual block of ResNet-34."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + shortcut).relu()


class SmallBlock(nn.Module):
    """A residual block that knows no batch: group normalisation, so that ReStyle's first and last steps may differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.GroupNorm(min(NORM_GROUPS, inputs // 2), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.act = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.act(self.conv1(self.norm(x))))
        shortcut = avg_pool2d(x, self.stride) if self.stride > 1 else x
        return residual + (self.shortcut(shortcut) if hasattr(self, "shortcut") else shortcut)


class Backbone(nn.Module, ABC):
    """A stem, then residual blocks in one `body`; `taps` are the blocks whose outputs [B,channels[i],h,w] are given."""

    channels: tuple[int, int, int]
    taps: tuple[int, int, int]
    body: nn.Sequential

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """What comes before the blocks."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B,in,H,W] in [-1,1] -> fine [B,c1,H/4,W/4], middle [B,c2,H/8,W/8], coarse [B,c3,H/16,W/16]."""
        x, maps = self.stem(x), []
        for index, block in enumerate(self.body):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        fine, middle, coarse = maps
        return fine, middle, coarse


def _stages(unit: type[nn.Module], widths: tuple[int, ...], counts: tuple[int, ...], strides: tuple[int, ...]) -> list:
    """Units of all stages; the first of each has the stage's stride. widths: of the stem, then of each stage."""
    units = []
    for inputs, outputs, count, stride in zip(widths[:-1], widths[1:], counts, strides, strict=True):
        units += [unit(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count)]
    return units


class IRSE50(Backbone):
    channels, taps = (128, 256, 512), (6, 20, 23)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        units = _stages(ImprovedUnit, (64, 64, 128, 256, 512), (3, 4, 14, 3), (2, 2, 2, 2))
        self.body = nn.Sequential(*units)

    def stem(self, x: Tensor) -> Tensor:
        return self.input_layer(x)


class ResNet34(Backbone):
    """ReStyle's: no max-pooling after the stem, which ends in a PReLU."""

    channels, taps = (128, 256, 512), (6, 12, 15)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.PReLU(64)
        self.body = nn.Sequential(*_stages(BasicBlock, (64, 64, 128, 256, 512), (3, 4, 6, 3), (1, 2, 2, 2)))

    def stem(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))


class Small(Backbone):
    """A light trunk for pictures of about 64x64; `widths` of the stem and of the fine, middle and coarse map."""

    taps = (1, 3, 5)

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.channels = widths[1:]
        self.input_layer = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(in_channels, widths[0], 3, 2, 1), act=nn.PReLU(widths[0]))
        )
        blocks = _stages(SmallBlock, widths, (2, 2, 2), (2, 2, 2))
        self.body = nn.Sequential(*blocks)
        with torch.no_grad():  # residuals start small: the trunk is nearly linear at first
            for block in blocks:
                block.conv2.weight.mul_(0.2)

    def stem(self, x: Tensor) -> Tensor:
        return self.input_layer(x)
