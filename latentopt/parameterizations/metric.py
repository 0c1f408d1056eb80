"""Coordinates of the generator's metric, in which a step of length 1 changes every picture alike.

The spaces `w`, `w+`, `p-norm`, `p-norm+` and `weights` take these options:

    metric       use these coordinates
    metric_net, metric_size   the image distance that the metric is for, as in the term `perceptual`; none: pixels
    metric_file  its file, instead of the one found for the generator
    damping      what is added to the metric, as a fraction of its mean eigenvalue, by default 0.01, for weights 0.1: it
                 bounds the moves that hardly show
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.statistics.metric import Metric, Roots
from latentopt.statistics.metric_files import check_distance, given_or_found_metric

LATENT_DAMPING, WEIGHT_DAMPING = 0.01, 0.1


class MetricOptions:
    """The options of one space, checked; None is the default. Raises UsageError for values that cannot be meant."""

    def __init__(
        self, net: str | None, size: int | None, file: str | None, damping: float | None, usual_damping: float
    ) -> None:
        self.net, self.size, self.file = net or "auto", size, file
        self.damping = usual_damping if damping is None else damping
        check_distance(self.net, self.size)
        if not 0 < self.damping < math.inf:
            raise UsageError(f"damping must be a number above 0, not {self.damping}")

    def find(self, generator: Generator, weights: tuple[str, ...] = ()) -> Metric:
        """The metric that covers `weights`. Raises StatisticsError where there is none."""
        return given_or_found_metric(generator, self.file, self.net, self.size, weights)[0]


@dataclass(frozen=True)
class Whitening:
    """Between rows x [B,L or 1,C] and their coordinates u: x = origin + A u, one A [C,C] a row."""

    roots: Roots
    origin: Tensor

    @staticmethod
    def of(roots: Roots, origin: Tensor) -> Whitening:
        """In the precision and on the device of `origin` [C]."""
        return Whitening(roots.to(origin), origin)

    def to(self, like: Tensor) -> Whitening:
        return Whitening(self.roots.to(like), self.origin.to(like))

    def into(self, x: Tensor) -> Tensor:
        return torch.einsum("lij,blj->bli", self.roots.inverse, x - self.origin)

    def out(self, u: Tensor) -> Tensor:
        return torch.einsum("lij,blj->bli", self.roots.forward, u) + self.origin


@dataclass(frozen=True)
class KroneckerWhitening:
    """Between a weight's delta [B,*shape] and its coordinates U of the same shape: delta = P U Q."""

    left: Roots
    right: Roots

    @staticmethod
    def of(metric: Metric, name: str, weight: Tensor, damping: float) -> KroneckerWhitening:
        """In the precision and on the device of `weight`."""
        left, right = metric.weight_roots(name, tuple(weight.shape), damping)
        return KroneckerWhitening(left.to(weight), right.to(weight))

    def into(self, delta: Tensor) -> Tensor:
        return _both_sides(self.left.inverse, delta, self.right.inverse)

    def out(self, u: Tensor) -> Tensor:
        return _both_sides(self.left.forward, u, self.right.forward)


def _both_sides(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """left [O,O] x right [I,I] for every other index of x [B,O,I,*]; sides that x lacks count as 1."""
    matrix = x.reshape(len(x), len(left), len(right), -1)  # [B,O,I,K]
    return torch.einsum("op,bpik,ij->bojk", left, matrix, right).reshape(x.shape)
