"""Operators one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Operator, Source


@dataclass(frozen=True)
class Images:
    """What an operator measures, where that is another's measurement."""

    resolution: tuple[int, int]
    img_channels: int
    device: torch.device

    @staticmethod
    def like(measured: Tensor, name: str) -> Images:
        """Raises UsageError for measurements that are no images."""
        if measured.ndim != 4:
            raise UsageError(f"what {name} makes are no images ({list(measured.shape[1:])}): no operator can follow it")
        return Images((measured.shape[2], measured.shape[3]), measured.shape[1], measured.device)


class Chain(Operator):
    """The first operator's measurement is the second one's image, and so on."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        self.operators = tuple(operators)

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return all(operator.linear for operator in self.operators)

    def __call__(self, image: Tensor) -> Tensor:
        for operator in self.operators:
            image = operator(image)
        return image

    def drawn(self, image: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        for operator in self.operators:
            image = operator.drawn(image, seeds, step)
        return image

    def simulate(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        for operator in self.operators:
            image = operator.simulate(image, seeds)
        return image

    def counted(self, measured: Tensor) -> Tensor:
        return self.operators[-1].counted(measured)

    def shown(self, measured: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            measured = operator.shown(measured)
        return measured

    def index(self, rows: Tensor) -> Operator:
        picked = [operator.index(rows) for operator in self.operators]
        return self if all(map(is_, picked, self.operators)) else Chain(picked)


def joined(operators: Sequence[Operator]) -> Operator | None:
    """One operator for all of them; None for none."""
    return Chain(operators) if len(operators) > 1 else operators[0] if operators else None


def blank(source: Source) -> Tensor:
    """A grey image [1,C,H,W] of that source."""
    return torch.zeros(1, source.img_channels, *source.resolution, device=source.device)
