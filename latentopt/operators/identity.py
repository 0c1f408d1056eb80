"""The whole image: what inversion measures."""

from __future__ import annotations

from torch import Tensor

from latentopt.protocols import Operator, Source


class Identity(Operator):
    """The image itself."""

    linear = True

    def __init__(self, source: Source) -> None:
        pass

    def __call__(self, image: Tensor) -> Tensor:
        return image
