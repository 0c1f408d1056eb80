"""Colours turned to grey."""

from __future__ import annotations

from torch import Tensor

from latentopt.pictures.channels import LUMA
from latentopt.protocols import Operator, Source


class Gray(Operator):
    """[B,C,H,W] -> [B,1,H,W]: the luma of colours (BT.601), without their opacity; grey images as they are."""

    linear = True

    def __init__(self, source: Source) -> None:
        pass

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[1] == 1:
            return image
        weights = image.new_tensor(LUMA).reshape(1, 3, 1, 1)
        return (image[:, :3] * weights).sum(dim=1, keepdim=True)
