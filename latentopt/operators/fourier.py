"""Some rows or columns of the image's Fourier plane, as accelerated MRI measures them."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Operator, Source


class Rows(Operator):
    """The image [B,C,H,W] with every row of its Fourier plane at 0 that is not measured (zero-filled).

    Measured are the frequencies k with |k| a multiple of `every`, and the share `centre` of all that are lowest. Both
    signs of a frequency are measured or neither, so that the result is real, and the map its own adjoint.
    """

    linear = True
    examples = ({}, {"every": 2, "centre": 0.0})
    dim = -2

    def __init__(self, source: Source, *, every: int = 4, centre: float = 0.08) -> None:
        name = type(self).__name__.lower()
        if every < 1:
            raise UsageError(f"{name}: every must be at least 1, not {every}")
        if not 0 <= centre <= 1:
            raise UsageError(f"{name}: centre is a share of the frequencies from 0 to 1, not {centre}")
        self.every, self.centre = every, centre

    def measured(self, n: int) -> Tensor:
        """Which of the frequencies of `n` samples are measured, in the order of `torch.fft.fft`: [n]."""
        k = torch.arange(n)
        k = torch.minimum(k, n - k)
        return (k % self.every == 0) | (2 * k <= self.centre * n)

    def __call__(self, image: Tensor) -> Tensor:
        n = image.shape[self.dim]
        kept = self.measured(n).to(image).reshape(n, *[1] * (-1 - self.dim))
        return torch.fft.ifft(torch.fft.fft(image, dim=self.dim) * kept, dim=self.dim).real


class Columns(Rows):
    """As `Rows`, of the columns of the Fourier plane."""

    dim = -1
