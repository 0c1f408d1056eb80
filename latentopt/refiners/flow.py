"""The flow between two pictures from their features at three sizes: global correlation first, local refinement above.

Source: Yildirim et al., section 3.1, after Truong et al. 2021. Differences: that network's own layers are not
described in the paper; here each level is three convolutions, and what the network finds between features and
themselves is taken off, so that no edit is no flow, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from latentopt.refiners.blocks import SLOPE, shrink_
from latentopt.refiners.warping import expected_flow, near_correlation, resized_flow, warp, whole_correlation

RADIUS = 3  # pixels of the local correlations
SHARPNESS = 10.0  # of the softmax over the global one, at first


class Level(nn.Module):
    """A correction [B,2,h,w] of the flow so far, from features of length 1, the second picture's warped already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = (2 * RADIUS + 1) ** 2 + width + 2
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, 2 * width, 3, 1, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, width, 3, 1, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 2, 3, 1, 1),
        )
        shrink_(self.layers[-1])

    def forward(self, first: Tensor, warped: Tensor, flow: Tensor) -> Tensor:
        near = near_correlation(first, warped, RADIUS)
        return self.layers(torch.cat([near, first, flow.to(first.dtype)], dim=1)).float()


class FlowNet(nn.Module):
    """Features of two pictures at three sizes, coarse to fine -> the flow at the finest [B,2,h,w].

    channels: of the features; each level brings them to `width` by a 3x3 convolution.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(nn.Conv2d(count, width, 3, 1, 1) for count in channels)
        self.levels = nn.ModuleList(Level(width) for _ in channels)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    def forward(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """`before`, `after`: the features of either picture. What is at p after was at p + flow(p) before."""
        batch = len(before[0])
        flow: Tensor | None = None
        adapted = zip(self.adapters, before, after, strict=True)
        maps = [[normalize(adapter(x), dim=1) for x in pair] for adapter, *pair in adapted]
        for level, (source, goal) in zip(self.levels, maps, strict=True):
            # the second half compares the features with themselves
            first, second = torch.cat([goal, source]), torch.cat([source, source])
            if flow is None:
                both = expected_flow(whole_correlation(first, second), self.sharpness)
                flow = both[:batch] - both[batch:]
            else:
                flow = resized_flow(flow, (source.shape[2], source.shape[3]))
            so_far = torch.cat([flow, torch.zeros_like(flow)])
            found = level(first, warp(second, so_far), so_far)
            flow = flow + found[:batch] - found[batch:]
        assert flow is not None
        return flow


class Pyramid(nn.Module):
    """Features of a picture [B,3,H,W] at an eighth, a quarter and half its size, coarse to fine."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, 2, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(outputs, outputs, 3, 1, 1)
            )
            for inputs, outputs in pairwise((3, *widths))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self.stages:
            image = stage(image)
            maps.insert(0, image)
        return maps
