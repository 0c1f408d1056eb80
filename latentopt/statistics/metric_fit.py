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
from typing import Any

import torch

from latentopt.errors import StatisticsError, UsageError
from latentopt.files.storage import save_tensors
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator
from latentopt.statistics.curvature import Draws, Outputs, batches, sampled_gradients
from latentopt.statistics.metric import PIXELS, Metric
from latentopt.statistics.metric_moments import MOMENTS, Moments, check_sums, moments_of, read_sums
from latentopt.statistics.shards import Shard, check_shards

PROBES = 640  # pictures, by default
BATCH = 8
PURPOSE = 2  # of the random streams; sigma's are 0 and 1
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
