"""The whole image: what inversion measures."""

from __future__ import annotations

from torch import Tensor

from latentopt.protocols import Generator, Operator


class Identity(Operator):
    """The image itself."""

    def __init__(self, generator: Generator) -> None:
        pass

    def __call__(self, image: Tensor) -> Tensor:
        return image
