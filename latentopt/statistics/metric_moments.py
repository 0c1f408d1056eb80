"""The sums over pictures that a metric is the mean of, and what a saved file of them has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.schema import parse_json
from latentopt.files.storage import load_tensors
from latentopt.protocols import Generator
from latentopt.statistics.metric import LEFT, RIGHT, sides
from latentopt.statistics.pnorm import SLOPE

MOMENTS = "latentopt-metric-moments-1"


class FitState(TypedDict):
    """What a fit was asked for, and how many pictures of how many its sums are of."""

    fingerprint: str
    distance: str
    weights: list[str]
    probes: int
    seed: int
    batch: int
    dtype: str
    shard: tuple[int, int]
    total: int
    count: int


@dataclass(frozen=True)
class Moments:
    """Sums over pictures, float64 on the CPU, by the names of `Metric.blocks`."""

    count: int
    sums: dict[str, Tensor]

    def plus(self, other: Moments) -> Moments:
        if not self.count:
            return other
        return Moments(self.count + other.count, {name: x + other.sums[name] for name, x in self.sums.items()})


def moments_of(ws: Tensor, by_ws: Tensor, by_weight: dict[str, Tensor]) -> Moments:
    """Of the pictures of one batch: their ws and gradients [B,L,C], and their gradients by weights [B,*shape]."""
    rows, joint = by_ws.transpose(0, 1).double().cpu(), by_ws.sum(dim=1).double().cpu()  # [L,B,C], [B,C]
    slopes = torch.where(ws >= 0, 1.0, SLOPE).flatten(0, 1).double().cpu()  # [BL,C]
    sums = {"ws": rows.mT @ rows, "w": joint.T @ joint, "slopes": slopes.T @ slopes / ws.shape[1]}
    for name, gradient in by_weight.items():
        g = gradient.reshape(len(gradient), *sides(tuple(gradient.shape[1:])))  # [B,O,I,K]
        left, right = g.transpose(0, 1).flatten(1), g.transpose(0, 2).flatten(1)  # [O,BIK], [I,OBK]
        sums |= {LEFT + name: (left @ left.T).double().cpu(), RIGHT + name: (right @ right.T).double().cpu()}
    return Moments(len(ws), sums)


def check_sums(moments: Moments, generator: Generator, names: Sequence[str]) -> None:
    """Raise StatisticsError for sums that are not those of `generator` and its weights `names`."""
    wide = generator.w_dim
    shapes: dict[str, tuple[int, ...]] = {
        "ws": (generator.num_ws, wide, wide),
        "w": (wide, wide),
        "slopes": (wide, wide),
    }
    for name in names:
        if name not in generator.tunable:
            raise StatisticsError(f"{generator.name!r} has no weight {name!r}")
        out, into, _ = sides(generator.tunable[name])
        shapes |= {LEFT + name: (out, out), RIGHT + name: (into, into)}
    if {name: tuple(x.shape) for name, x in moments.sums.items()} != shapes:
        raise StatisticsError(f"the sums are not those of {generator.name!r} and these weights")


def read_sums(path: Path) -> tuple[FitState, Moments]:
    """What `MetricFit.save` wrote: its state and the sums. Raises StatisticsError."""
    try:
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != MOMENTS:
            raise StatisticsError(f"{path}: not the sums of a metric's fit")
        state: FitState = parse_json(metadata["state"], FitState)
        if state["count"] < 1:
            raise ValueError("sums of no picture")
        if broken := [name for name, x in tensors.items() if not _is_sum(x)]:
            raise ValueError(f"{broken[0]} holds no sum of squares")
        return state, Moments(state["count"], tensors)
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise StatisticsError(f"{path}: damaged sums of a metric's fit ({error}); remove it") from error


def _is_sum(x: Tensor) -> bool:
    """Whether x [...,C,C] can be a sum of outer squares, of which a mean fits into 32 bits."""
    square = x.dtype == torch.float64 and x.ndim in (2, 3) and x.shape[-1] == x.shape[-2]
    return square and bool(x.float().isfinite().all()) and not bool((x.diagonal(dim1=-2, dim2=-1) < 0).any())
