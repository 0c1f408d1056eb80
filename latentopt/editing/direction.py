"""A direction of the latent space that changes one thing in the picture. B images, L = num_ws, C = w_dim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, StatisticsError, UsageError
from latentopt.protocols import Generator
from latentopt.registry import COORDINATES
from latentopt.statistics.pnorm import SLOPE, check_slope
from latentopt.types import GeneratorInputs

if TYPE_CHECKING:
    from latentopt.editing.coordinates import Coordinates


@dataclass(frozen=True, eq=False)
class Direction:
    """Added to the latents of an image, `strength` times; positive strengths give more of what it is named after.

    space        a name of `latentopt.registry.COORDINATES`: "w" (one vector for all layers), "w+" (one a layer) or
                 "p-norm"
    vector       [C] or, in w+, [L,C]; strength 1 is one standard deviation of the generator's samples along it or,
                 where `about["unit"]` is "attribute", of what it is named after. In W coordinates; a direction of
                 P-norm is kept in P, where it is straight as well (P = W with the last leaky ReLU undone, of negative
                 slope `slope`)
    layers       the rows of ws that it moves; None for all
    fingerprint  the generator it belongs to, `generator` its name
    method       how it was found; score: accuracy on samples held out, in [0,1], None where there are no labels
    about        the rest: samples, seed, what it was made independent of ...

    Raises CheckpointError for values that cannot be such.
    """

    name: str
    space: str
    vector: Tensor
    fingerprint: str
    layers: tuple[int, ...] | None = None
    generator: str = "generator"
    method: str = ""
    score: float | None = None
    about: dict[str, Any] = field(default_factory=dict)
    slope: float = SLOPE

    def __post_init__(self) -> None:
        vector = self.vector.detach().to("cpu", torch.float32).contiguous()
        if self.space not in COORDINATES:
            raise CheckpointError(f"direction {self.name!r}: its space is {self.space!r}, not {', '.join(COORDINATES)}")
        if vector.ndim != 1 + self.coordinates.layered or not vector.numel():
            raise CheckpointError(f"direction {self.name!r}: {list(vector.shape)} is no direction of {self.space}")
        if not vector.isfinite().all() or not vector.any():
            raise CheckpointError(f"direction {self.name!r}: all zero, or not finite")
        try:
            check_slope(self.slope)
        except StatisticsError as error:
            raise CheckpointError(f"direction {self.name!r}: {error}") from error
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise CheckpointError(f"direction {self.name!r}: moves the rows {list(self.layers)}")
        object.__setattr__(self, "vector", vector)

    @property
    def coordinates(self) -> Coordinates:
        """Those in which it is straight."""
        return COORDINATES.create(self.space, self.slope)

    def edit(self, inputs: GeneratorInputs, strength: float, layers: Sequence[int] | None = None) -> GeneratorInputs:
        """`inputs` moved by `strength` times the vector, other fields untouched; `-strength` goes back, up to rounding.

        layers: the rows of ws to move instead of the direction's own. Raises UsageError for rows that are not there, a
        strength that is not finite, and latents of another shape.
        """
        if not math.isfinite(strength):
            raise UsageError(f"{self.name}: a strength is a finite number, not {strength}")
        ws = inputs.ws  # [B,L,C]
        if self.vector.shape[-1] != ws.shape[-1] or (self.vector.ndim == 2 and len(self.vector) != ws.shape[1]):
            raise UsageError(
                f"{self.name}: a direction {list(self.vector.shape)} does not fit latents {list(ws.shape)}; it belongs "
                f"to generator {self.generator!r}"
            )
        chosen = self.layers if layers is None else layers
        rows = list(range(ws.shape[1]) if chosen is None else chosen)
        if not rows or max(rows) >= ws.shape[1] or min(rows) < 0:
            raise UsageError(f"{self.name}: layers {rows} of latents that have the rows 0 to {ws.shape[1] - 1}")
        vector = self.vector.to(ws)
        step = strength * (vector[rows] if vector.ndim == 2 else vector)  # [r,C] or [C]
        return self.coordinates.move(inputs, rows, step)

    def check(self, generator: Generator, where: str = "") -> None:
        """Raise CheckpointError, naming `where`, unless this is a direction of `generator`."""
        where = f"{where}: " if where else ""
        if self.fingerprint != generator.fingerprint:
            raise CheckpointError(
                f"{where}direction {self.name!r} belongs to generator {self.generator!r} "
                f"({self.fingerprint or 'unknown'}), not to {generator.name!r} ({generator.fingerprint}); find one "
                "with latentopt directions find, or force it (--force) if both have the same mapping network"
            )
        self.check_shape(generator, where)

    def check_shape(self, generator: Generator, where: str = "") -> None:
        """Raise CheckpointError where the latents of `generator` have other dimensions."""
        num_ws, w_dim = generator.num_ws, generator.w_dim
        expected = list(self.coordinates.shape(num_ws, w_dim))
        if list(self.vector.shape) != expected:
            raise CheckpointError(
                f"{where}direction {self.name!r} is {list(self.vector.shape)}; the latents of {generator.name!r} ask "
                f"for {expected} in {self.space}"
            )
        if self.layers is not None and max(self.layers) >= num_ws:
            raise CheckpointError(
                f"{where}direction {self.name!r} moves row {max(self.layers)}; {generator.name!r} has rows 0 to "
                f"{num_ws - 1}"
            )
