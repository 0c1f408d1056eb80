"""Fewer pixels: only what is left of an image when it is shrunk counts (as in PULSE, Menon et al. 2020)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

from latentopt.errors import UsageError
from latentopt.protocols import Generator, Operator


class Down(Operator):
    """Means over squares of `factor` x `factor` pixels: [B,3,H,W] -> [B,3,H/factor,W/factor].

    Raises UsageError for a factor that does not divide both sides of the generator's image.
    """

    def __init__(self, generator: Generator, *, factor: int = 2) -> None:
        if factor < 1 or any(side % factor for side in generator.resolution):
            sides = "x".join(map(str, generator.resolution))
            raise UsageError(f"down: factor {factor} does not divide both sides of a {sides} image")
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        return avg_pool2d(image, self.factor)
