"""Making images smaller. B images of height H and width W."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def shrink(image: Tensor, height: int) -> Tensor:
    """image [B,C,H,W] -> [B,C,height,w], each pixel the mean of the area it covers; w keeps the aspect, at least 1.

    An image that is not higher than `height` comes back as it is.
    """
    if image.shape[2] <= height:
        return image
    width = max(1, round(height * image.shape[3] / image.shape[2]))
    return interpolate(image, (height, width), mode="area")
