"""The coordinates in which directions are looked for: W, W+ or P-norm. n samples, L = num_ws, C = w_dim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentopt.editing.direction import SPACES, Direction
from latentopt.editing.scaling import sample_codes, scaled
from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.statistics.pnorm import PNorm


@dataclass(frozen=True, eq=False)
class EditingSpace:
    """One of `SPACES` for one generator; `pnorm` is needed by p-norm alone. Raises UsageError."""

    name: str
    generator: Generator
    pnorm: PNorm | None = None

    def __post_init__(self) -> None:
        if self.name not in SPACES:
            raise UsageError(f"space {self.name!r}: choose {', '.join(SPACES)}")
        if self.name == "p-norm" and self.pnorm is None:
            raise UsageError(
                f"space p-norm needs P-norm statistics: latentopt fit-pnorm --network {self.generator.source}"
            )

    def sample(self, n: int, seed: int) -> Tensor:
        """Latents of `n` samples: [n,C], or in w+ [n,L,C] with two styles in each."""
        return sample_codes(self.generator, seed, n, mixed=self.name == "w+")

    def coordinates(self, codes: Tensor) -> Tensor:
        """Latents [n,C] or [n,L,C] -> coordinates [n,D], float64 on the CPU.

        W and P-norm have one vector for all layers: of the rows of [n,L,C] the mean is taken.
        """
        codes = codes.detach().double().cpu()
        if self.name == "w+":
            rows = codes if codes.ndim == 3 else codes[:, None].expand(-1, self.generator.num_ws, -1)
            return rows.flatten(1)
        x = codes if self.name == "w" else self.pnorm.whiten(codes)
        return x.mean(dim=1) if x.ndim == 3 else x

    def direction(self, name: str, normal: Tensor, **fields: Any) -> Direction:
        """The direction that moves the coordinates along `normal` [D], one standard deviation of samples at strength 1."""
        normal = normal.double().cpu()
        slope = {}
        if self.name == "p-norm":  # unit variance in every direction
            vector = (normal / normal.norm() * self.pnorm.std) @ self.pnorm.components  # [C], in P
            slope = {"slope": self.pnorm.slope}
        else:
            shape = (self.generator.num_ws, self.generator.w_dim) if self.name == "w+" else (self.generator.w_dim,)
            vector = scaled(normal.reshape(shape), sample_codes(self.generator, mixed=self.name == "w+"))
        generator = {"fingerprint": self.generator.fingerprint, "generator": self.generator.name}
        return Direction(name, self.name, vector, **generator, **slope, **fields)


def unit(normal: Tensor) -> Tensor:
    """`normal` [D] at length 1."""
    return torch.nn.functional.normalize(normal.double(), dim=-1)
