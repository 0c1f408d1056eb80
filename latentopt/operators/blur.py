"""A blurred image: by a Gaussian, or by a kernel from a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from latentopt.errors import UsageError
from latentopt.operators.files import levels_of
from latentopt.protocols import Operator, Source


class Blur(Operator):
    """[B,C,H,W] -> the same size; beyond the edges the image goes on with the pixels there.

    sigma  of a Gaussian, in pixels (2 where no file is given), cut off at 3 sigma
    file   a kernel instead, the picture of a point: grey levels, or a .npy array [h,w]; odd sides, scaled to the sum 1

    Raises UsageError for values and kernels that cannot be meant.
    """

    linear = True
    reads = {"file": "file"}
    examples = ({}, {"sigma": 0.7}, {"file": "kernel.npy"})

    def __init__(self, source: Source, *, sigma: float | None = None, file: str | None = None) -> None:
        if file is not None and sigma is not None:
            raise UsageError("blur: either sigma or a kernel's file, not both")
        self.kernels = (_kernel_of(Path(file)),) if file is not None else _gaussian(2.0 if sigma is None else sigma)

    def __call__(self, image: Tensor) -> Tensor:
        channels = image.shape[1]
        for kernel in self.kernels:
            height, width = kernel.shape
            weight = kernel.flip(0, 1).to(image).expand(channels, 1, height, width)  # conv2d correlates
            image = pad(image, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
            image = conv2d(image, weight, groups=channels)
        return image


def _gaussian(sigma: float) -> tuple[Tensor, Tensor]:
    """One axis after the other."""
    if not 0 < sigma <= 1000:
        raise UsageError(f"blur: sigma is a number of pixels above 0, not {sigma}")
    x = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, dtype=torch.float64)
    line = (-(x**2) / (2 * sigma**2)).softmax(dim=0)
    return line[:, None], line[None]


def _kernel_of(path: Path) -> Tensor:
    kernel = torch.from_numpy(np.asarray(levels_of(path), np.float64))
    if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
        raise UsageError(f"{path}: a kernel has an odd number of rows and of columns, not {list(kernel.shape)}")
    total = kernel.sum()
    if not kernel.isfinite().all() or not total > 0:
        raise UsageError(f"{path}: a kernel's values are finite, and their sum is above 0")
    return kernel / total
