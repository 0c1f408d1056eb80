"""Making images smaller or larger. B images of height H and width W."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def shrink(image: Tensor, height: int) -> Tensor:
    """image [B,C,H,W] -> [B,C,height,w], each pixel the mean of the area that it covers.

    The width w keeps the aspect and is at least 1. An image that is not higher than `height` comes back as it is.
    """
    if image.shape[2] <= height:
        return image
    width = max(1, round(height * image.shape[3] / image.shape[2]))
    return interpolate(image, (height, width), mode="area")


def enlarge(image: Tensor, least: int) -> Tensor:
    """image [B,C,H,W] whose shorter side has fewer than `least` pixels -> each pixel a square of k x k, k as small as
    can be. Other images come back as they are.
    """
    factor = -(-least // min(image.shape[2:]))
    return image if factor == 1 else image.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
