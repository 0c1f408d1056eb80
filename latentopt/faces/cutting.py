"""The square of a photograph as a picture of its own: shrunk, padded, warped.

Source: the preparation of FFHQ, Karras, Laine and Aila 2019: where the square sticks out of the photograph, that is
mirrored there, and blurred the more, the farther out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from latentopt.faces.alignment import Alignment
from latentopt.faces.quads import into_quad, side_of
from latentopt.pictures.decoding import Picture

BORDER = 0.1  # of the square's side: photograph that is kept around it
PADDING = 0.3  # of the side: the least that is mirrored where anything is
BLUR = 0.02  # of the side: standard deviation in what was mirrored
FINEST = 4  # drawn at most so many times finer than asked for, then reduced


@dataclass(frozen=True)
class Region:
    """Part of a photograph that holds the square, in levels of one channel [h,w]; `quad` in its own pixels.

    pad: how much of it was mirrored, left, top, right, bottom.
    """

    quad: Tensor
    box: tuple[int, int, int, int]  # of the shrunk photograph: left, top, right, bottom
    pad: tuple[int, int, int, int]
    shrunk: tuple[int, int]  # H, W of the photograph after the shrinking
    side: float


def cut(picture: Picture, alignment: Alignment, size: int) -> Picture:
    """The aligned picture, `size` by `size`, of a photograph that was decoded."""
    region = region_of(picture.size, alignment.corners, size)
    red, green, blue = (cut_channel(channel, region, size) for channel in picture.channels)
    alpha = None if picture.alpha is None else to_mode(cut_channel(picture.alpha, region, size), "L")
    notes = [*picture.notes, alignment.note]
    if (side := side_of(alignment.corners)) < size:
        notes.append(f"enlarged from {side:.0f}x{side:.0f} to {size}x{size}")
    if any(region.pad):
        notes.append("mirrored where the square sticks out of the photograph")
    return replace(picture, channels=(red, green, blue), alpha=alpha, size=(size, size), notes=notes)


def region_of(photo: tuple[int, int], quad: Tensor, size: int) -> Region:
    """What of a photograph (H,W) is needed to draw the quad at `size` pixels."""
    factor = max(1, math.floor(side_of(quad) / size * 0.5))
    height, width = (max(1, round(n / factor)) for n in photo)
    quad = quad / quad.new_tensor([photo[1] / width, photo[0] / height])
    side = side_of(quad)
    border = max(round(side * BORDER), 3)
    low, high = quad.amin(dim=0).tolist(), quad.amax(dim=0).tolist()
    out = (-low[0], -low[1], high[0] - width, high[1] - height)  # how far it sticks out
    pad = [max(math.ceil(n + border), math.ceil(side * PADDING)) if n > 0 else 0 for n in out]
    left, top = (max(math.floor(n) - border, 0) for n in low)
    right, bottom = min(math.ceil(high[0]) + border, width), min(math.ceil(high[1]) + border, height)
    shift = quad.new_tensor([left - pad[0], top - pad[1]])
    return Region(quad - shift, (left, top, right, bottom), (pad[0], pad[1], pad[2], pad[3]), (height, width), side)


def cut_channel(channel: Image.Image, region: Region, size: int) -> Image.Image:
    """One channel (mode L or F) of the aligned picture, mode F."""
    height, width = region.shrunk
    if channel.size != (width, height):
        channel = channel.resize((width, height), Image.Resampling.LANCZOS)
    levels = np.asarray(channel.crop(region.box), np.float32)  # [h,w]
    if any(region.pad):
        levels = padded(levels, region.pad, region.side)
    drawn = size * min(max(math.ceil(region.side / size), 1), FINEST)
    warped = warp(Image.fromarray(levels), into_quad(region.quad), drawn)
    return warped if drawn == size else warped.resize((size, size), Image.Resampling.LANCZOS)


def padded(levels: np.ndarray, pad: tuple[int, int, int, int], side: float) -> np.ndarray:
    """Levels [h,w] mirrored at their edges, and blurred towards the outside, from just inside the edge on."""
    left, top, right, bottom = pad
    levels = np.pad(levels, ((top, bottom), (left, right)), mode="reflect")
    across, down = _outside(levels.shape[1], left, right), _outside(levels.shape[0], top, bottom)
    outside = np.maximum(across[None], down[:, None])  # 1 at the rim, 0 at the edge of the photograph
    soft = gaussian_filter(levels, BLUR * side, mode="nearest")
    levels = levels + (soft - levels) * np.clip(3 * outside + 1, 0, 1)
    return levels + (np.median(levels) - levels) * np.clip(outside, 0, 1)


def _outside(length: int, before: int, after: int) -> np.ndarray:
    """Of each place [n] in a line with mirrored ends: 1 at the rim, 0 where the photograph begins, negative inside."""
    at = np.arange(length, dtype=np.float32)
    found = np.full(length, -np.inf, np.float32)
    for far, pad in ((at, before), (length - 1 - at, after)):
        if pad:
            found = np.maximum(found, 1 - far / pad)
    return found


def warp(channel: Image.Image, into: Tensor, size: int) -> Image.Image:
    """`size` by `size` pixels of what the homography `into` [3,3] takes the unit square to, in the channel's pixels."""
    return resample(channel, into @ torch.diag(into.new_tensor([1 / size, 1 / size, 1.0])), (size, size))


def resample(channel: Image.Image, matrix: Tensor, size: tuple[int, int]) -> Image.Image:
    """A channel of `size` (H,W) whose place p shows the place `matrix` @ p [3,3] of the given one."""
    data = (matrix / matrix[2, 2]).flatten()[:8].tolist()
    return channel.transform(size[::-1], Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC)


def to_mode(channel: Image.Image, mode: str) -> Image.Image:
    """Levels of mode F, rounded and clipped, as another mode."""
    levels = np.asarray(channel, np.float32)
    return channel if mode == "F" else Image.fromarray(np.clip(np.round(levels), 0, 255).astype(np.uint8), mode)
