"""Fewer pixels: only what is left of an image when it is shrunk counts (as in PULSE, Menon et al. 2020)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from latentopt.errors import UsageError
from latentopt.protocols import Operator, Source

METHODS = ("area", "bicubic")


class Down(Operator):
    """[B,C,H,W] -> [B,C,H/factor,W/factor].

    method  area: means over squares of `factor` x `factor` pixels; bicubic: with antialiasing, as Pillow's

    Raises UsageError for a factor that does not divide both sides of the image.
    """

    linear = True
    examples = ({}, {"factor": 4, "method": "bicubic"})

    def __init__(self, source: Source, *, factor: int = 2, method: str = "area") -> None:
        if factor < 1 or any(side % factor for side in source.resolution):
            sides = "x".join(map(str, source.resolution))
            raise UsageError(f"down: factor {factor} does not divide both sides of a {sides} image")
        if method not in METHODS:
            raise UsageError(f"down: method {method!r} is not one of {', '.join(METHODS)}")
        self.factor, self.method = factor, method
        self.size = tuple(side // factor for side in source.resolution)

    def __call__(self, image: Tensor) -> Tensor:
        if self.method == "area":
            return avg_pool2d(image, self.factor)
        return interpolate(image, self.size, mode="bicubic", antialias=True)
