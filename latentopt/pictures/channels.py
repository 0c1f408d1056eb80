"""Grey, coloured and transparent images: how those who know only colours are shown the others.

A generator's images have 1 channel (grey), 3 (colour) or 4 (colour, then opacity: -1 transparent, 1 opaque; colours
are as they are in a PNG, not multiplied by it).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's own conversion to grey


def in_colour(image: Tensor) -> Tensor:
    """[...,C,H,W] -> [...,3,H,W], as networks trained on colours see it: grey repeated, opacity left out."""
    if image.shape[-3] == 1:
        return image.expand(*image.shape[:-3], 3, *image.shape[-2:])
    return image[..., :3, :, :]


def on_white(image: Tensor) -> Tensor:
    """[...,C,H,W] in [-1,1] -> [...,3,H,W], as people see it: what is transparent shows white."""
    if image.shape[-3] != 4:
        return in_colour(image)
    colour, opacity = image[..., :3, :, :].clamp(-1, 1), (image[..., 3:, :, :].clamp(-1, 1) + 1) / 2
    return torch.lerp(torch.ones_like(colour), colour, opacity)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Levels [3,H,W] -> [1,H,W]; a picture that is grey keeps its levels."""
    if (pixels == pixels[:1]).all():
        return pixels[:1]
    return np.tensordot(np.array(LUMA, pixels.dtype), pixels, 1)[None]
