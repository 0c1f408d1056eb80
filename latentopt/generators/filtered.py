"""Bias, up-sampling, leaky ReLU, down-sampling: the activation of StyleGAN3, aliasing filtered away.

Source: Karras et al. 2021, section 3.2. Both filters are products with banded matrices, cut into blocks where the
canvas is large: matrix products are what processors do fastest, and nothing is multiplied by an inserted zero. A radial
filter is first taken apart into the few separable ones that it is the sum of. Equal to zero insertion and convolution
(`latentopt.generators.ops.upfirdn`) but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

RANK_TOLERANCE = 1e-6  # of the largest singular value of a radial filter: what is left out is below float32's rounding
BLOCK = 24  # outputs of one block, times the up-sampling
DENSE = 640  # outputs up to which one product of all is faster than blocks, which copy what they share


@dataclass(frozen=True)
class Axis:
    """A filter with resampling along one axis of n samples, for R inputs that are summed and S outputs side by side.

    matrix  [R*K,S*P]: from the K samples that a block reads to the P that it makes
    pad     samples before and after, so that each block finds its own; step: from one block's first to the next one's
    length  of the output
    """

    matrix: Tensor
    outputs: int
    pad: tuple[int, int]
    window: int
    step: int
    blocks: int
    length: int

    def to(self, dtype: torch.dtype) -> Axis:
        return replace(self, matrix=self.matrix.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """[...,R,n] -> [...,S,length]."""
        if self.blocks == 1:
            return (x.flatten(-2) @ self.matrix).unflatten(-1, (self.outputs, -1))
        x = F.pad(x, self.pad).unfold(-1, self.window, self.step)  # [...,R,blocks,K]
        y = x.transpose(-3, -2).flatten(-2) @ self.matrix  # [...,blocks,S*P]
        return y.unflatten(-1, (self.outputs, -1)).transpose(-3, -2).flatten(-2)[..., : self.length]


def resampling(
    filters: Tensor, n: int, up: int, down: int, pad: Sequence[int] = (0, 0), gain: float = 1.0, summed: bool = False
) -> Axis:
    """Insert zeros (`up`), pad (negative crops), convolve with each of `filters` [F,t], keep every `down`-th of n
    samples, for F outputs of one input or, `summed`, one output of F inputs.
    """
    count, taps = filters.shape
    length = (n * up + sum(pad) - taps) // down + 1
    offset = taps - 1 - pad[0]  # output i reads sample j through tap i*down + offset - j*up
    block = length if length <= max(DENSE, BLOCK * up) else BLOCK * up
    blocks = -(-length // block)
    first, window = 0, n
    if blocks > 1:
        first = -((taps - 1 - offset) // up)
        window = ((block - 1) * down + offset) // up - first + 1
    step = block * down // up
    i = torch.arange(block, device=filters.device) * down + offset
    j = torch.arange(window, device=filters.device) + first
    tap = i[None, :] - j[:, None] * up  # [K,P]
    inside = (tap >= 0) & (tap < taps)
    bands = torch.where(inside, filters[:, tap.clamp(0, taps - 1)] * gain, 0.0)  # [F,K,P]
    matrix = bands.flatten(0, 1) if summed else bands.transpose(0, 1).flatten(1)
    padding = (-first, first + (blocks - 1) * step + window - n)
    return Axis(matrix.contiguous(), 1 if summed else count, padding, window, step, blocks, length)


def separable_terms(f: Tensor) -> tuple[Tensor, Tensor]:
    """Filters along y and along x, [F,t] each, whose outer products add up to f: [t] itself twice, or [t,t]."""
    if f.ndim == 1:
        return f[None], f[None]
    u, s, v = torch.linalg.svd(f.cpu().double())
    kept = s >= RANK_TOLERANCE * s[0]
    root = s[kept].sqrt()
    return (u.T[kept] * root[:, None]).to(f), (v[kept] * root[:, None]).to(f)


@dataclass(frozen=True)
class Filters:
    """The filters of a layer as products with matrices: up along x and y, then down along y and x; None: no filter."""

    up: tuple[Axis, Axis] | None
    down: tuple[Axis, Axis] | None
    crop: tuple[int, int, int, int]
    gain: float

    @staticmethod
    def of(
        size: tuple[int, int],
        up_filter: Tensor | None,
        down_filter: Tensor | None,
        up: int,
        down: int,
        pad: Sequence[int],
        dtype: torch.dtype,
        gain: float = 1.0,
    ) -> Filters:
        """For canvases of that height and width; pad: x before, x after, y before, y after (negative crops). What goes
        into the leaky ReLU is multiplied by `gain`, which is as good as to multiply what comes out.
        """
        height, width = size
        x_pad, y_pad = pad[:2], pad[2:]
        rising = falling = None
        crop = (0, 0, 0, 0) if up_filter is not None else (x_pad[0], x_pad[1], y_pad[0], y_pad[1])
        if up_filter is not None:
            of_y, of_x = separable_terms(up_filter)
            rising = (
                resampling(of_x, width, up, 1, x_pad, up * gain).to(dtype),
                resampling(of_y, height, up, 1, y_pad, up).to(dtype),
            )
            height, width = rising[1].length, rising[0].length
        else:
            height, width = height + sum(y_pad), width + sum(x_pad)
        if down_filter is not None:
            of_y, of_x = separable_terms(down_filter)
            falling = (
                resampling(of_y, height, 1, down).to(dtype),
                resampling(of_x, width, 1, down, summed=True).to(dtype),
            )
        return Filters(rising, falling, crop, gain)

    def __call__(self, x: Tensor, slope: float, clamp: float | None) -> Tensor:
        """x [B,C,h,w], its bias added -> up, gain, leaky ReLU (of `slope` below 0), clamp, down. Between the filters x
        is held transposed, so that every product is along the axis that lies close in memory.
        """
        x = F.pad(x, self.crop) if any(self.crop) else x
        x = x.transpose(2, 3) * self.gain if self.up is None else self._upsampled(x)  # [B,C,W,H]
        if slope != 1:
            x = F.leaky_relu(x, slope)
        x = x if clamp is None else F.hardtanh(x, -clamp, clamp)  # a clamp with a gradient in one pass
        if self.down is None:
            return x.transpose(2, 3)
        along_y, along_x = self.down
        x = along_y(x[:, :, :, None])  # [B,C,W,S,h]
        return along_x(x.permute(0, 1, 4, 3, 2)).squeeze(3)  # [B,C,h,w]

    def _upsampled(self, x: Tensor) -> Tensor:
        assert self.up is not None
        along_x, along_y = self.up
        x = along_x(x[:, :, :, None]).squeeze(3)  # [B,C,h,W]
        return along_y(x.transpose(2, 3)[:, :, :, None]).squeeze(3)  # [B,C,W,H]
