"""The coordinates of directions: where they are straight, one vector for all rows of ws or one a row.

One class a kind; `latentopt.registry.COORDINATES` names them. n samples, L = num_ws, C = w_dim, r rows that move.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from latentopt.editing.scaling import sample_codes, scaled
from latentopt.protocols import Generator
from latentopt.registry import COORDINATES
from latentopt.statistics.pnorm import SLOPE, PNorm, p_to_w, w_to_p
from latentopt.types import GeneratorInputs


class Coordinates(ABC):
    """One kind of coordinates; `slope` is that of the mapping's last activation, where they undo it.

    layered     whether a direction has one vector a row, [L,C], instead of one for all, [C]
    linear      whether the coordinates are those of W, so that what is linear in w is linear in them
    statistics  whether directions are found by P-norm statistics, without which `flat` and `vector` cannot be called
    """

    layered: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    statistics: ClassVar[bool] = False

    def __init__(self, slope: float = SLOPE) -> None:
        self.slope = slope

    def shape(self, rows: int, w_dim: int) -> tuple[int, ...]:
        """Of a direction in that many rows."""
        return (rows, w_dim) if self.layered else (w_dim,)

    def straight(self, w: Tensor) -> Tensor:
        """w [...,C] -> where a direction adds a constant, [...,C]."""
        return w

    def back(self, x: Tensor) -> Tensor:
        """The inverse of `straight`."""
        return x

    def move(self, inputs: GeneratorInputs, rows: Sequence[int], step: Tensor) -> GeneratorInputs:
        """`inputs` with `step` [C], [r,C] or [B,r or 1,C] added to those rows of ws, other fields untouched."""
        ws, index = inputs.ws, torch.tensor(list(rows), device=inputs.ws.device)
        moved = self.back(self.straight(ws[:, list(rows)]) + step)  # [B,r,C]
        return inputs.replace(ws=ws.index_copy(1, index, moved))

    def whole(self, step: Tensor, rows: Sequence[int], num_ws: int) -> Tensor:
        """The direction [L,C] or [C] that moves `rows` by `step` [r,C] or [C]."""
        if not self.layered:
            return step
        return torch.zeros(num_ws, step.shape[-1]).index_copy(0, torch.tensor(list(rows)), step.cpu())

    def sample(self, generator: Generator, n: int, seed: int) -> Tensor:
        """Latents of `n` samples: [n,C], or [n,L,C] with two styles in each where rows have vectors of their own."""
        return sample_codes(generator, seed, n, mixed=self.layered)

    @abstractmethod
    def flat(self, codes: Tensor, generator: Generator, pnorm: PNorm | None) -> Tensor:
        """Latents [n,C] or [n,L,C], float64 -> [n,D], in which directions are looked for."""

    def vector(self, normal: Tensor, generator: Generator, pnorm: PNorm | None) -> Tensor:
        """The direction along `normal` [D] of `flat`, in `straight` coordinates, one standard deviation long."""
        shape = self.shape(generator.num_ws, generator.w_dim)
        return scaled(normal.reshape(shape), sample_codes(generator, mixed=self.layered))

    def components(self, pnorm: PNorm | None) -> tuple[Tensor, Tensor] | None:
        """The samples' principal components [D,D] and variances [D], where they are known without samples."""
        return None


class W(Coordinates):
    """One vector of W for all rows; of latents that have one a row the mean is taken."""

    def flat(self, codes: Tensor, generator: Generator, pnorm: PNorm | None) -> Tensor:
        return codes.mean(dim=1) if codes.ndim == 3 else codes


class WPlus(Coordinates):
    """A vector of W for each row."""

    layered = True

    def flat(self, codes: Tensor, generator: Generator, pnorm: PNorm | None) -> Tensor:
        rows = codes if codes.ndim == 3 else codes[:, None].expand(-1, generator.num_ws, -1)
        return rows.flatten(1)


class PNormAxes(Coordinates):
    """One vector of P for all rows, found where the samples have unit variance (P-norm).

    A direction is kept in P, where it is straight as well.
    """

    linear = False
    statistics = True

    def straight(self, w: Tensor) -> Tensor:
        return w_to_p(w, self.slope)

    def back(self, x: Tensor) -> Tensor:
        return p_to_w(x, self.slope)

    def flat(self, codes: Tensor, generator: Generator, pnorm: PNorm | None) -> Tensor:
        v = _given(pnorm).whiten(codes)
        return v.mean(dim=1) if v.ndim == 3 else v

    def vector(self, normal: Tensor, generator: Generator, pnorm: PNorm | None) -> Tensor:
        statistics = _given(pnorm)
        return (normal / normal.norm() * statistics.std) @ statistics.components  # [C]

    def components(self, pnorm: PNorm | None) -> tuple[Tensor, Tensor] | None:
        std = _given(pnorm).std
        return torch.eye(len(std), dtype=torch.float64), std.square()


def _given(pnorm: PNorm | None) -> PNorm:
    if pnorm is None:
        raise ValueError("these coordinates need P-norm statistics")
    return pnorm


def in_w(layered: bool) -> str:
    """The name of the coordinates of W with one vector a row, or with one for all rows."""
    kinds = {name: COORDINATES.load(name) for name in COORDINATES}
    return next(name for name, kind in kinds.items() if kind.linear and kind.layered == layered)
