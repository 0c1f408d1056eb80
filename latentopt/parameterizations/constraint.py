"""Holding a code near the centre of P-norm+: the three regularisers of the P-norm paper, and PULSE's sphere.

Source: Zhu et al. 2020, "Improved StyleGAN Embedding: Where are the Good Latents?", section 5 and appendix A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM, PNormBasis, p_to_w, w_to_p


@dataclass(frozen=True)
class PNormConstraint:
    """What a code v [B,L,K] in P-norm+ may be. A hard constraint is applied by `nearest`, a soft one by `penalty`.

    clip      every coordinate within +-clip standard deviations (Tables 5 and 6, Clip-n)
    project   each coordinate, seen over the L layers as one vector, within this Euclidean radius (Table 6, Project-n)
    sphere    every layer's vector on the sphere of radius sqrt(K), where Gaussian samples lie (PULSE);
              not with the two above
    l2        weight of the sum of v^2 (Table 6, L2 1e-4 ... 1e-8); the released code's 0.001 on the mean over
              18x512 is 1.1e-7

    `basis` is that of the generator's P-norm+, `num_ws` its number of layers. Raises UsageError for values that cannot
    be meant.
    """

    basis: PNormBasis
    num_ws: int
    clip: float | None = None
    project: float | None = None
    sphere: bool = False
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.sphere and (self.clip is not None or self.project is not None):
            raise UsageError("sphere cannot be joined with clip or project: one undoes the other; keep one of them")
        for name, value in (("clip", self.clip), ("project", self.project), ("l2", self.l2)):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number of at least 0, not {value}")

    def nearest(self, v: Tensor) -> Tensor:
        """The nearest allowed code (coordinate by coordinate) of v [B,L,K]."""
        if self.clip is not None:
            v = v.clamp(-self.clip, self.clip)
        if self.project is not None:
            norm = v.norm(dim=1, keepdim=True) * (self.num_ws / v.shape[1]) ** 0.5  # [B,1,K]
            v = v * (self.project / norm.clamp_min(1e-12)).clamp_max(1)
        if self.sphere:
            v = v * (v.shape[2] ** 0.5 / v.norm(dim=2, keepdim=True).clamp_min(1e-12))
        return v

    def nearest_w(self, w: Tensor) -> Tensor:
        """`nearest` for a code in W+, [B,L,C]; a layer that is allowed already comes back unchanged.

        Only the difference is mapped back: rounding in the directions of tiny standard deviation does not build up.
        """
        basis = self.basis
        v = basis.whiten(w)
        allowed = self.nearest(v)
        if len(basis.std) < w.shape[-1]:  # what lies outside the truncated basis goes to the mean
            return basis.unwhiten(allowed)
        change = allowed - v
        moved = p_to_w(w_to_p(w, basis.slope) + (change * basis.std) @ basis.components, basis.slope)
        return torch.where((change != 0).any(dim=2, keepdim=True), moved, w)

    def penalty(self, v: Tensor) -> Tensor | None:
        """`l2 * sum v^2` over all layers, [B], or None without a weight."""
        return None if self.l2 == 0 else self.l2 * self.num_ws / v.shape[1] * v.square().sum(dim=(1, 2))

    def penalty_w(self, w: Tensor) -> Tensor | None:
        return None if self.l2 == 0 else self.penalty(self.basis.whiten(w))


def basis_of(
    generator: Generator,
    std_floor: float,
    rank: int | None,
    stats: str | None,
    dtype: torch.dtype = torch.float32,
) -> PNormBasis:
    """The coordinates of P-norm+ by the statistics in the file `stats`, or by those at hand; in float64 on the CPU.

    Raises StatisticsError where there are none.
    """
    pnorm, _ = given_or_found(PNORM, generator, stats)
    device = "cpu" if dtype == torch.float64 else generator.device  # Apple's GPUs have no float64
    return pnorm.basis(std_floor=std_floor, rank=rank, dtype=dtype, device=device)
