"""Measuring a generator's metric from its own samples: one backward pass a picture, resumable and divisible.

E_v (J^T v)(J^T v)^T = J^T J for random signs v on the coordinates of the image distance, so the mean of g g^T over
pictures, g = J^T v, estimates the mean Gauss-Newton matrix. Picture i depends on the seed and i alone: not on the
batch, interruptions, or the number of shards.
"""

from __future__ import annotations

import collections.abc
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, StatisticsError, UsageError
from latentopt.files.schema import parse_json
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator
from latentopt.statistics.curvature import Draws, Outputs, batches, sampled_gradients
from latentopt.statistics.metric import LEFT, PIXELS, RIGHT, Metric, sides
from latentopt.statistics.pnorm import SLOPE
from latentopt.statistics.shards import Shard, check_shards

PROBES = 640  # pictures, by default
BATCH = 8
PURPOSE = 2  # of the random streams; sigma's are 0 and 1
MOMENTS = "latentopt-metric-moments-1"
SETTINGS = ("distance", "weights", "probes", "seed", "batch", "dtype")
SAVE_INTERVAL = 15.0  # seconds between saved sums


@dataclass(frozen=True)
class Distance:
    """An image distance: its name, and the coordinates in which it is the sum of squared differences."""

    name: str
    outputs: Outputs

    @staticmethod
    def of(generator: Generator, net: str = "auto", size: int | None = None, weights: str | None = None) -> Distance:
        """Deep features and pixels, each with weight 1; `net = "none"`: pixels alone. See `PerceptualFeatures`."""
        if net == "none":
            return Distance.beside_pixels()
        features = PerceptualFeatures(generator, net, size, weights)
        return Distance.beside_pixels(features.name, features.coordinates)

    @staticmethod
    def beside_pixels(name: str = PIXELS, coordinates: Outputs = lambda image: []) -> Distance:
        """The mean squared difference of pixels, and the distance of that name."""
        return Distance(name, lambda image: [image / math.sqrt(image[0].numel()), *coordinates(image)])


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


class MetricFit:
    """One fit: `run()` does the work, a batch a record, and `result()` gives the metric. It works in the generator's
    precision, but in 32 bits for one in float16, whose gradients would underflow.

    layers   weights to measure beside the latents (`choose_weights`), or "" for none
    shard    (i, N) takes every N-th batch, from the i-th on
    partial  where the sums are kept every few seconds; a fit of the same settings goes on from there
    """

    def __init__(
        self,
        generator: Generator,
        distance: Distance,
        probes: int = PROBES,
        *,
        layers: str = "convs",
        seed: int = 0,
        batch: int = BATCH,
        shard: tuple[int, int] = (0, 1),
        partial: Path | None = None,
    ) -> None:
        from latentopt.generators.tunable import choose_weights

        for what, value in (("probes", probes), ("batch", batch)):
            if value < 1:
                raise UsageError(f"{what} must be at least 1, not {value}")
        half = generator.precision == torch.float16  # gradients would underflow
        self.generator = generator.in_float32() if half else generator
        self.distance, self.partial, self.shard = distance, partial, shard
        self.names = choose_weights(generator, layers) if layers else ()
        self.batches = list(batches(probes, batch))[shard[0] :: shard[1]]
        self.key = {
            "fingerprint": generator.fingerprint,
            "distance": distance.name,
            "weights": list(self.names),
            "probes": probes,
            "seed": seed,
            "batch": batch,
            "dtype": str(self.generator.precision).removeprefix("torch."),
        }
        self.draws = Draws(self.generator, seed, PURPOSE)
        self.moments = Moments(0, {})
        if partial is not None and partial.is_file():
            self._resume(partial)

    @property
    def total(self) -> int:
        """Pictures of this shard."""
        return sum(map(len, self.batches))

    @property
    def done(self) -> int:
        """Pictures drawn."""
        return self.moments.count

    def run(self) -> collections.abc.Generator[int, None, None]:
        """Draw what is missing; yields the pictures done.

        The sums are saved at the end too, and when the iteration is broken off or fails.
        """
        saved = time.monotonic()
        try:
            while self.done < self.total:
                indices = self.batches[self._next]
                self.moments = self.moments.plus(self._measure(indices))  # one assignment: Ctrl-C sees whole batches
                if time.monotonic() - saved > SAVE_INTERVAL:
                    self.save()
                    saved = time.monotonic()
                yield self.done
        finally:
            self.save()

    @property
    def _next(self) -> int:
        """How many batches were added."""
        return -(-self.done // len(self.batches[0]))

    def _measure(self, indices: range) -> Moments:
        ws, streams = self.draws.mixed_ws(indices)
        found = next(sampled_gradients(self.generator, self.names, self.distance.outputs, ws, streams))
        return moments_of(ws, *found)

    def result(self) -> Metric:
        """The metric. Raises StatisticsError for gradients that are not finite."""
        return metric_from(self.moments, self.key, self.generator.name)

    def save(self) -> None:
        """Write the sums to `partial`, atomically."""
        if self.partial is not None and self.done:
            state = self._state | {"count": self.done}
            about = {"format": MOMENTS, "fingerprint": self.generator.fingerprint, "state": json.dumps(state)}
            save_tensors(self.partial, self.moments.sums, about)

    def _resume(self, path: Path) -> None:
        try:
            state, moments = read_sums(path)
        except StatisticsError:
            return  # damaged: nothing is lost but time
        if dict(state) == self._state | {"count": moments.count} and moments.count <= self.total:
            with suppress(StatisticsError):
                check_sums(moments, self.generator, self.names)
                self.moments = moments

    @property
    def _state(self) -> dict[str, Any]:
        return {**self.key, "shard": tuple(self.shard), "total": self.total}


def metric_from(moments: Moments, key: Mapping[str, Any], name: str) -> Metric:
    """The means of the sums. `key`: what the fit was asked for."""
    blocks = {part: x / moments.count for part, x in moments.sums.items()}
    card = {"dtype": key["dtype"]}
    return Metric(blocks, key["distance"], key["fingerprint"], moments.count, key["seed"], name, card)


def merge_metric_shards(generator: Generator, paths: Sequence[Path]) -> Metric:
    """The metric from the sums of all shards. Raises StatisticsError for missing, unfinished or foreign ones."""
    parts = [(path, *read_sums(path)) for path in paths]
    shards = [Shard(path, state, state["count"] >= state["total"]) for path, state, _ in parts]
    check_shards(generator, shards, SETTINGS, "fit-metric")
    for path, state, found in parts:
        try:
            check_sums(found, generator, state["weights"])
        except StatisticsError as error:
            raise StatisticsError(f"{path}: {error}; remove it") from error
    moments = [moments for *_, moments in parts if moments.count]
    return metric_from(reduce(Moments.plus, moments), parts[0][1], generator.name)


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


def fit_metric(
    generator: Generator,
    *,
    net: str = "auto",
    size: int | None = None,
    weights: str | None = None,
    layers: str = "convs",
    probes: int = PROBES,
    seed: int = 0,
    batch: int = BATCH,
) -> Metric:
    """The metric of `generator` in one call; see `MetricFit` and `Distance.of` for the settings."""
    distance = Distance.of(generator, net, size, weights)
    fit = MetricFit(generator, distance, probes, layers=layers, seed=seed, batch=batch)
    for _ in fit.run():
        pass
    return fit.result()
