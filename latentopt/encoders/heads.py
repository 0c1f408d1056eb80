"""From feature maps to codes: map2style blocks on a pyramid or on one map (pSp, e4e, ReStyle), and single codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, linear

from latentopt.devices import normal

SLOPE = 0.01  # of the leaky ReLUs here; the generator's are 0.2
W_PLUS_POOL = 7


class EqualLinear(nn.Module):
    """A linear layer of unit-variance weights, scaled by 1/sqrt(inputs) when used (equalised learning rate)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight * self.scale, self.bias)


class MapToStyle(nn.Module):
    """pSp's map2style: convolutions of stride 2 until one pixel is left, then a linear layer: [B,c,h,w] -> [B,C]."""

    def __init__(self, inputs: int, width: int, w_dim: int, size: int) -> None:
        super().__init__()
        layers = []
        for i in range(max(1, math.ceil(math.log2(size)))):
            layers += [nn.Conv2d(width if i else inputs, width, 3, 2, 1), nn.LeakyReLU(SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Heads(nn.Module, ABC):
    """K map2style heads, one a row of the code; `maps` gives each head the map that it reads."""

    styles: nn.ModuleList

    @abstractmethod
    def maps(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        """The map that each head reads."""

    def forward(self, features: tuple[Tensor, Tensor, Tensor], rows: int | None = None) -> Tensor:
        """The codes of the first `rows` rows (all by default), [B,rows,C]."""
        pairs = list(zip(self.styles, self.maps(*features), strict=True))[:rows]
        return torch.stack([style(x) for style, x in pairs], dim=1)


class PyramidHeads(Heads):
    """pSp and e4e: coarse rows read the coarse map, the others a feature pyramid's middle and fine map."""

    def __init__(
        self, channels: tuple[int, int, int], width: int, w_dim: int, num_ws: int, size: int, groups: tuple[int, int]
    ) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.levels = [sum(row >= first for first in groups) for row in range(num_ws)]  # 0 coarse, 1 middle, 2 fine
        self.styles = nn.ModuleList(MapToStyle(coarse, width, w_dim, size << level) for level in self.levels)
        self.latlayer1 = nn.Conv2d(middle, coarse, 1)
        self.latlayer2 = nn.Conv2d(fine, coarse, 1)

    def maps(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        p2 = _upsampled(coarse, middle) + self.latlayer1(middle)
        p1 = _upsampled(p2, fine) + self.latlayer2(fine)
        return [(coarse, p2, p1)[level] for level in self.levels]


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


class SimpleHeads(Heads):
    """ReStyle's simplified encoder (its section 3.1): every row reads the coarse map."""

    def __init__(self, channels: tuple[int, int, int], width: int, w_dim: int, num_ws: int, size: int) -> None:
        super().__init__()
        self.styles = nn.ModuleList(MapToStyle(channels[2], width, w_dim, size) for _ in range(num_ws))

    def maps(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        return [coarse] * len(self.styles)


class SingleHead(nn.Module):
    """One code for all rows, from the average of the coarse map: [B,K,C], all rows equal."""

    def __init__(self, channels: tuple[int, int, int], w_dim: int, num_ws: int) -> None:
        super().__init__()
        self.num_ws = num_ws
        self.linear = EqualLinear(channels[2], w_dim)

    def forward(self, features: tuple[Tensor, Tensor, Tensor], rows: int | None = None) -> Tensor:
        code = self.linear(features[2].mean(dim=(2, 3)))
        return code[:, None].expand(-1, rows or self.num_ws, -1)


class FlatHead(nn.Module):
    """pSp's ablation "last layer into W+": all rows by two linear layers from the 7x7 summary of the coarse map."""

    def __init__(self, channels: tuple[int, int, int], w_dim: int, num_ws: int) -> None:
        super().__init__()
        width = channels[2]
        self.num_ws = num_ws
        self.output_layer_2 = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.AdaptiveAvgPool2d(W_PLUS_POOL),
            nn.Flatten(),
            nn.Linear(width * W_PLUS_POOL**2, w_dim),
        )
        self.linear = EqualLinear(w_dim, w_dim * num_ws)

    def forward(self, features: tuple[Tensor, Tensor, Tensor], rows: int | None = None) -> Tensor:
        return self.linear(self.output_layer_2(features[2])).unflatten(1, (self.num_ws, -1))[:, :rows]


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,3,H,W] as encoders take it: the centre in the aspect of `size`, averaged over areas down to it, [B,3,h,w].

    Released code resizes the given picture bilinearly (PIL, with antialiasing) but averages the generator's picture
    over areas; here both go the second way, so that ReStyle compares like with like. Smaller pictures are enlarged
    bilinearly.
    """
    (height, width), (h, w) = image.shape[-2:], size
    if height * w != width * h:  # cars: 512x512 -> rows 64 to 448 -> 192x256
        rows, columns = min(height, max(1, round(width * h / w))), min(width, max(1, round(height * w / h)))
        top, left = (height - rows) // 2, (width - columns) // 2
        image = image[..., top : top + rows, left : left + columns]
    if image.shape[-2:] == size:
        return image
    if image.shape[-2] >= h and image.shape[-1] >= w:
        return adaptive_avg_pool2d(image, size)
    return interpolate(image, size, mode="bilinear", align_corners=False)
