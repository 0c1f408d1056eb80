"""Sliced Wasserstein distance (Rabin et al. 2011) of patches of a Laplacian pyramid (Karras et al. 2018, section 5).

e4e's Table 3 has it; no kept library does. Values are times 1000, as there.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import StatisticsError
from latentopt.pictures.images import to_uint8

PATCH, PATCHES = 7, 128  # side, and how many a picture and level
DIRECTIONS, REPEATS = 128, 4
SMALLEST = 16  # pixels of the coarsest level
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson 1983
BATCH = 16  # pictures taken apart at once
SPLITS = 8  # for the standard error


def picture_swd(first: Tensor, second: Tensor, *, seed: int = 0, splits: int = SPLITS) -> tuple[float, float]:
    """Distance of two sets of pictures [N,3,H,W] in [-1,1], on 8-bit levels 0..255: mean over levels, and its error.

    Patches are drawn at random, at other places in the two sets. The error is that of a set cut in up to `splits` parts
    and left out in turn (delete-a-group jackknife), 0 for fewer than 2; it takes nearly all the time.
    Raises StatisticsError for sets of different shapes.
    """
    if first.shape != second.shape:
        raise StatisticsError(f"pictures {list(first.shape)} and {list(second.shape)} cannot be compared")
    rng = torch.Generator().manual_seed(seed)
    sides = [_descriptors(side, rng) for side in (first, second)]
    pairs = list(zip(*sides, strict=True))  # of [N,P,147], from fine to coarse
    value = _mean_distance(pairs, seed)
    if (count := min(len(first), splits)) < 2:
        return value, 0.0
    parts = torch.arange(len(first)).tensor_split(count)
    kept = [torch.cat([p for j, p in enumerate(parts) if j != i]) for i in range(len(parts))]
    left = torch.tensor([_mean_distance([(a[rows], b[rows]) for a, b in pairs], seed) for rows in kept])
    g = len(left)
    return value, ((g - 1) / g * (left - left.mean()).square().sum()).sqrt().item()


def _descriptors(images: Tensor, rng: torch.Generator) -> list[Tensor]:
    """Standardised patches of every level, from fine to coarse, [N,P,147] each; few pictures are in work at a time."""
    parts = [[patches(level, rng) for level in pyramid(levels_of(part))] for part in images.split(BATCH)]
    return [standardised(torch.cat(level)) for level in zip(*parts, strict=True)]


def levels_of(images: Tensor) -> Tensor:
    """Grey levels 0..255 [N,3,H,W] float32 on the CPU."""
    return torch.from_numpy(to_uint8(images)).movedim(-1, -3).float()


def pyramid(images: Tensor) -> list[Tensor]:
    """Laplacian pyramid of [N,3,H,W], from fine to coarse, down to SMALLEST pixels. A side that is odd ends it."""
    levels = [images]
    while min(levels[-1].shape[-2:]) >= 2 * SMALLEST and not any(side % 2 for side in levels[-1].shape[-2:]):
        smaller = _blur(levels[-1])[..., ::2, ::2]
        levels[-1] = levels[-1] - _enlarged(smaller)
        levels.append(smaller)
    return levels


def patches(level: Tensor, rng: torch.Generator) -> Tensor:
    """PATCHES random 7x7 patches of each picture [N,3,h,w]: [N,P,147], channel after channel."""
    n, channels, height, width = level.shape
    half = PATCH // 2
    y = torch.randint(half, height - half, (n, PATCHES), generator=rng)
    x = torch.randint(half, width - half, (n, PATCHES), generator=rng)
    offsets = torch.arange(-half, half + 1)
    rows = y[..., None, None] + offsets[:, None]  # [N,P,7,1]
    columns = x[..., None, None] + offsets  # [N,P,1,7]
    index = (rows * width + columns).flatten(1)  # [N,P*49]
    picked = level.flatten(2).gather(2, index[:, None].expand(-1, channels, -1))  # [N,3,P*49]
    return picked.unflatten(2, (PATCHES, -1)).movedim(1, 2).flatten(2)


def standardised(patches: Tensor) -> Tensor:
    """[N,P,147] with mean 0 and deviation 1 in each channel of the whole set."""
    channels = patches.unflatten(2, (-1, PATCH * PATCH))  # [N,P,3,49]
    mean = channels.mean(dim=(0, 1, 3), keepdim=True)
    std = channels.std(dim=(0, 1, 3), keepdim=True, correction=0)
    return ((channels - mean) / std.clamp(min=1e-8)).flatten(2)


def sliced_wasserstein(first: Tensor, second: Tensor, *, seed: int = 0) -> float:
    """Mean absolute difference of the sorted projections of two sets of points [M,F] on 4 times 128 random directions.

    Raises StatisticsError for sets of different shapes.
    """
    if first.shape != second.shape:
        raise StatisticsError(f"points {list(first.shape)} and {list(second.shape)} cannot be compared")
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(REPEATS):
        directions = F.normalize(torch.randn(DIRECTIONS, first.shape[1], generator=rng), dim=1)
        a, b = (np.sort((directions @ points.T).numpy()) for points in (first, second))  # [D,M]; torch sorts slowly
        found.append(np.abs(a - b).mean())
    return float(np.mean(found))


def _mean_distance(pairs: list[tuple[Tensor, Tensor]], seed: int) -> float:
    found = [sliced_wasserstein(a.flatten(0, 1), b.flatten(0, 1), seed=seed) for a, b in pairs]
    return 1000 * sum(found) / len(found)


def _blur(x: Tensor) -> Tensor:
    """Binomial filter 5x5 with mirrored edges, [N,3,h,w]."""
    channels = x.shape[1]
    kernel = torch.tensor(BINOMIAL)
    weight = (kernel[:, None] * kernel).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), weight, groups=channels)


def _enlarged(x: Tensor) -> Tensor:
    """Twice the size: zeros between, then the filter with a gain of 4."""
    n, channels, height, width = x.shape
    spread = x.new_zeros(n, channels, 2 * height, 2 * width)
    spread[..., ::2, ::2] = x
    return 4 * _blur(spread)
