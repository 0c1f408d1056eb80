"""Noise of the measuring device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Operator, Source
from latentopt.statistics.streams import step_stream

KINDS = {"gaussian": 25.0, "poisson": 30.0}
PURPOSE = 0x0153  # apart from the other things that are drawn from an image's seed


class Noise(Operator):
    """The image [B,C,H,W] with noise on it.

    kind    gaussian: `amount` is the standard deviation in levels of 0..255 (25 by default); poisson: the number of
            photons that make white (30 by default), fewer are noisier
    amount  see kind

    By itself it is the mean of the measurement: the image. A step of the optimisation adds fresh noise to it, since
    perceptual distances see noise; Poisson noise then is Gaussian noise of the same variance, which is differentiable.
    """

    linear = True
    varies = True
    examples = ({}, {"kind": "poisson", "amount": 10.0})

    def __init__(self, source: Source, *, kind: str = "gaussian", amount: float | None = None) -> None:
        if kind not in KINDS:
            raise UsageError(f"noise: {kind!r} is not one of {', '.join(KINDS)}")
        self.kind, self.amount = kind, KINDS[kind] if amount is None else amount
        if not 0 <= self.amount < math.inf or (kind == "poisson" and self.amount == 0):
            raise UsageError(f"noise: the amount is a number above 0, not {amount}")

    def __call__(self, image: Tensor) -> Tensor:
        return image

    def drawn(self, image: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        shape = image.shape[1:]
        normal = torch.stack([torch.randn(shape, generator=step_stream(seed, step, PURPOSE)) for seed in seeds])
        if self.kind == "gaussian":
            return image + self.amount / 127.5 * normal.to(image)
        light = ((image + 1) / 2).clamp(1e-6, 1)
        return image + 2 * (light / self.amount).sqrt() * normal.to(image)

    def simulate(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.kind == "gaussian":
            return self.drawn(image, seeds, -1)
        photons = (((image + 1) / 2).clamp(0, 1) * self.amount).cpu()
        counts = [torch.poisson(x, step_stream(seed, -1, PURPOSE)) for x, seed in zip(photons, seeds, strict=True)]
        return (torch.stack(counts) / self.amount * 2 - 1).to(image)
