"""The parts of StyleRes: what finds the residual (E1), and what fits it to the features that are drawn (E2).

Plain: Yildirim et al., Warping the Residuals, section 3.1. Gated: the layout of StyleRes's released weights, by whose
names they are read. The two differ: plain is U-shaped with three halvings in E1 and four flat blocks in E2, whose
output is added as it is; gated has two halvings, three blocks after them, and an E2 that weighs what it adds, pixel by
pixel, with a gate in (0,1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

SLOPE = 0.2
START = 0.1  # of the last convolution's weights: a refiner begins near to adding nothing


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a leaky ReLU between them, the second with the stride, and the input added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        if inputs == outputs and stride == 1:
            self.shortcut_layer: nn.Module = nn.Identity()
        else:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
        self.res_layer = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 1, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(outputs, outputs, 3, stride, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """x [B,c,h,w] bilinearly in the size of `like`, corners on corners."""
    return interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


class PlainDifference(nn.Module):
    """E1, plain: what was read and what was drawn -> residual [B,c,h,w]."""

    def __init__(self, read: int, drawn: int, width: int) -> None:
        super().__init__()
        self.first_layer = nn.Conv2d(read + drawn, width, 3, 1, 1)
        self.down = nn.ModuleList(ResBlock(width, width, 2) for _ in range(3))
        self.up = nn.ModuleList(ResBlock(width, width) for _ in range(3))
        self.out_layer = nn.Conv2d(width, drawn, 3, 1, 1)

    def forward(self, read: Tensor, drawn: Tensor) -> Tensor:
        x = self.first_layer(torch.cat([read, drawn], dim=1))
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(x)
        for block in self.up:
            skip = skips.pop()
            x = block(enlarged(x, skip) + skip)
        return self.out_layer(x)


class PlainFusion(nn.Module):
    """E2, plain: residual and drawn features [B,c,h,w] -> what is added."""

    def __init__(self, drawn: int, width: int) -> None:
        super().__init__()
        half = max(drawn // 2, 1)
        self.residual = nn.Conv2d(drawn, half, 3, 1, 1)
        self.drawn = nn.Conv2d(drawn, half, 3, 1, 1)
        self.blocks = nn.Sequential(
            ResBlock(2 * half, width), ResBlock(width, width), ResBlock(width, width), ResBlock(width, drawn)
        )
        shrink_(self.blocks[-1])

    def forward(self, residual: Tensor, drawn: Tensor) -> Tensor:
        return self.blocks(torch.cat([self.residual(residual), self.drawn(drawn)], dim=1))


class Alignment(nn.Module):
    """The first part of E1, gated. The released file has weights of `dconv3`, which are not used."""

    def __init__(self, read: int, drawn: int, width: int) -> None:
        super().__init__()
        self.first_layer = nn.Conv2d(read + drawn, width, 1)
        self.conv1 = nn.Sequential(ResBlock(width, width))
        self.conv2 = nn.Sequential(ResBlock(width, width, 2), ResBlock(width, width))
        self.conv3 = nn.Sequential(ResBlock(width, width, 2), ResBlock(width, width))
        self.dconv1 = nn.Sequential(ResBlock(width, width), ResBlock(width, width))
        self.dconv2 = nn.Sequential(ResBlock(width, width), ResBlock(width, width))
        self.out_layer = nn.Conv2d(width, drawn, 1)

    def forward(self, read: Tensor, drawn: Tensor) -> Tensor:
        whole = self.conv1(self.first_layer(torch.cat([read, drawn], dim=1)))
        half = self.conv2(whole)
        x = self.dconv1(enlarged(self.conv3(half), half) + half)
        return self.out_layer(self.dconv2(enlarged(x, whole) + whole))


class Extraction(nn.Module):
    """The second part of E1, gated."""

    def __init__(self, drawn: int, width: int) -> None:
        super().__init__()
        self.first_layer = nn.Conv2d(drawn, width, 1)
        self.convs = nn.Sequential(ResBlock(width, width), ResBlock(width, drawn), ResBlock(drawn, drawn))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.first_layer(x))


class GatedDifference(nn.Module):
    """E1, gated: what was read and what was drawn -> residual [B,c,h,w]."""

    def __init__(self, read: int, drawn: int, width: int) -> None:
        super().__init__()
        self.alignment = Alignment(read, drawn, width)
        self.extraction = Extraction(drawn, width)

    def forward(self, read: Tensor, drawn: Tensor) -> Tensor:
        return self.extraction(self.alignment(read, drawn))


class GatedFusion(nn.Module):
    """E2, gated: residual and drawn features [B,c,h,w] -> gate * change."""

    def __init__(self, drawn: int, width: int) -> None:
        super().__init__()
        half = max(drawn // 2, 1)
        self.down1 = nn.Conv2d(drawn, half, 3, 1, 1)
        self.down2 = nn.Conv2d(drawn, half, 3, 1, 1)
        both = 2 * half
        self.convs = nn.Sequential(ResBlock(both, both), ResBlock(both, drawn), ResBlock(drawn, drawn))
        self.convs2 = nn.Sequential(ResBlock(both, both), ResBlock(both, drawn), ResBlock(drawn, 1))

    def forward(self, residual: Tensor, drawn: Tensor) -> Tensor:
        x = torch.cat([self.down1(drawn), self.down2(residual)], dim=1)
        return self.convs2(x).sigmoid() * self.convs(x)


@torch.no_grad()
def shrink_(block: nn.Module) -> None:
    """Make what a block gives small at first."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(START)


DIFFERENCES: dict[str, type[nn.Module]] = {"plain": PlainDifference, "gated": GatedDifference}
FUSIONS: dict[str, type[nn.Module]] = {"plain": PlainFusion, "gated": GatedFusion}
