"""The coordinates in which directions of a generator are looked for. n samples, L = num_ws, C = w_dim."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentopt.editing.coordinates import Coordinates
from latentopt.editing.direction import Direction
from latentopt.errors import UsageError
from latentopt.files.text import to_run
from latentopt.protocols import Generator
from latentopt.registry import COORDINATES
from latentopt.statistics.pnorm import PNorm


@dataclass(frozen=True, eq=False)
class EditingSpace:
    """The coordinates `name` (of `latentopt.registry.COORDINATES`) for one generator.

    `pnorm` are its P-norm statistics, for coordinates that need them. Raises UsageError for an unknown name, and where
    they are missing.
    """

    name: str
    generator: Generator
    pnorm: PNorm | None = None

    def __post_init__(self) -> None:
        if self.kind.statistics and self.pnorm is None:
            raise UsageError(f"space {self.name} needs P-norm statistics: {to_run('fit-pnorm', self.generator.source)}")

    @cached_property
    def kind(self) -> Coordinates:
        kind = COORDINATES.load(self.name)
        return kind(self.pnorm.slope) if kind.statistics and self.pnorm is not None else kind()

    def sample(self, n: int, seed: int) -> Tensor:
        """Latents of `n` samples: [n,C], or in w+ [n,L,C] with two styles in each."""
        return self.kind.sample(self.generator, n, seed)

    def coordinates(self, codes: Tensor) -> Tensor:
        """Latents [n,C] or [n,L,C] -> coordinates [n,D], float64 on the CPU.

        W and P-norm have one vector for all layers: of the rows of [n,L,C] the mean is taken.
        """
        return self.kind.flat(codes.detach().double().cpu(), self.generator, self.pnorm)

    def direction(self, name: str, normal: Tensor, **fields: Any) -> Direction:
        """The direction along `normal` [D] of the coordinates, one standard deviation of samples at strength 1."""
        return self.made(name, self.kind.vector(normal.double().cpu(), self.generator, self.pnorm), **fields)

    def made(self, name: str, vector: Tensor, **fields: Any) -> Direction:
        """The direction with this vector; `fields` are those of a Direction that the space does not tell."""
        own: dict[str, Any] = {
            "fingerprint": self.generator.fingerprint,
            "generator": self.generator.name,
            "slope": self.kind.slope,
        }
        return Direction(name, self.name, vector, **own, **fields)


def unit(normal: Tensor) -> Tensor:
    """`normal` [D] at length 1."""
    return torch.nn.functional.normalize(normal.double(), dim=-1)
