"""Measuring P-norm statistics: sample the mapping network, add up the moments of P; resumable and divisible.

Batch i is drawn from a random stream of its own, so the samples depend on the seed and the batch size alone: not on
interruptions, not on the number of shards.
"""

from __future__ import annotations

import collections.abc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.schema import parse_json
from latentopt.files.storage import STATISTICS_LIMIT, load_tensors, save_tensors
from latentopt.protocols import Generator
from latentopt.statistics.moments import Moments
from latentopt.statistics.pnorm import SLOPE, PNorm, w_to_p
from latentopt.statistics.shards import Shard, check_shards
from latentopt.statistics.streams import stream

BATCH = 10_000
FORMAT = "latentopt-pnorm-moments-1"
SAVE_INTERVAL = 5.0  # seconds between saved moments


class FitState(TypedDict):
    """What is drawn, and how far it is: `next` batches of the shard (i, N) with `count` samples."""

    fingerprint: str
    samples: int
    seed: int
    batch: int
    shard: tuple[int, int]
    next: int
    count: int


@dataclass(frozen=True)
class FitProgress:
    """One record a batch: samples done of all, and the seconds since the start of this run."""

    done: int
    total: int
    seconds: float


def draw_codes(generator: Generator, index: int, *, seed: int = 0, batch: int = BATCH) -> Tensor:
    """Batch `index` of the generator's own codes: w [batch,C], from z ~ N(0,1) and labels drawn uniformly."""
    rng = stream(seed, index)
    z = torch.randn(batch, generator.z_dim, generator=rng).to(generator.device)
    c = None
    if generator.c_dim:
        labels = torch.randint(generator.c_dim, (batch,), generator=rng)
        c = torch.nn.functional.one_hot(labels, generator.c_dim).to(generator.device, torch.float32)
    with torch.no_grad():
        return generator.mapping(z, c)


class PNormFit:
    """One fit: `run()` yields a record a batch, `result()` gives the statistics.

    `shard` (i, N) takes every N-th batch, from the i-th on. With `partial` given, the moments are kept in that file
    every few seconds, and a fit of the same generator, samples, seed, batch and shard goes on from there.
    """

    def __init__(
        self,
        generator: Generator,
        samples: int,
        *,
        seed: int = 0,
        batch: int = BATCH,
        shard: tuple[int, int] = (0, 1),
        partial: Path | None = None,
    ) -> None:
        self.generator, self.samples, self.seed, self.batch, self.partial = generator, samples, seed, batch, partial
        self.batches = range(shard[0], -(-samples // batch), shard[1])
        self.key = {"fingerprint": generator.fingerprint, "samples": samples, "seed": seed, "batch": batch}
        self.shard = shard
        self.moments = Moments(generator.w_dim)
        if partial is not None and partial.is_file():
            self._resume(partial)

    @property
    def total(self) -> int:
        """Samples of this shard."""
        return sum(self._rows(i) for i in self.batches)

    @property
    def done(self) -> int:
        """Samples drawn."""
        return self.moments.count

    @property
    def next(self) -> int:
        """How many batches were added: by the samples, so that it agrees with the moments whenever a run is stopped."""
        return -(-self.done // self.batch)

    def run(self) -> collections.abc.Generator[FitProgress, None, None]:
        """Draw what is missing. The moments are saved at the end too, and when the iteration is broken off or fails.

        What is saved are whole batches, also where KeyboardInterrupt comes in the middle of one.
        """
        started = saved = time.monotonic()
        try:
            for i in self.batches[self.next :]:
                w = draw_codes(self.generator, i, seed=self.seed, batch=self.batch)[: self._rows(i)]
                self.moments.update(w_to_p(w.cpu().double()))  # 5 w rounds in float32: 1e-6 of the smallest std
                if time.monotonic() - saved > SAVE_INTERVAL:
                    self.save()
                    saved = time.monotonic()
                yield FitProgress(self.done, self.total, time.monotonic() - started)
        finally:
            self.save()

    def result(self) -> PNorm:
        """The statistics. Raises StatisticsError as `PNorm.from_moments` does."""
        return _statistics(self.generator, self.moments, self.seed)

    def save(self) -> None:
        """Write the moments to `partial`, atomically."""
        if self.partial is not None:
            tensors = {"mean": torch.from_numpy(self.moments.mean), "scatter": torch.from_numpy(self.moments.scatter)}
            state = {**self.key, "shard": self.shard, "next": self.next, "count": self.done}
            about = {"format": FORMAT, "fingerprint": self.generator.fingerprint, "state": json.dumps(state)}
            save_tensors(self.partial, tensors, about)

    def _rows(self, i: int) -> int:
        return min(self.batch, self.samples - i * self.batch)

    def _resume(self, path: Path) -> None:
        try:
            state, moments = read_moments(path)
        except StatisticsError:
            return  # damaged: nothing is lost but time
        whole = {"next": -(-moments.count // self.batch), "count": moments.count}
        if state == {**self.key, "shard": tuple(self.shard), **whole} and len(moments.mean) == self.generator.w_dim:
            self.moments = moments


def fit_pnorm(generator: Generator, samples: int, *, seed: int = 0, batch: int = BATCH) -> PNorm:
    """P-norm statistics of `generator` from that many samples, in one call."""
    fit = PNormFit(generator, samples, seed=seed, batch=batch)
    for _ in fit.run():
        pass
    return fit.result()


def merge_shards(generator: Generator, paths: Sequence[Path]) -> PNorm:
    """The statistics from the moments of all shards. Raises StatisticsError for missing, unfinished or foreign ones."""
    parts = [(path, *read_moments(path)) for path in paths]
    shards = [Shard(path, state, _is_finished(state)) for path, state, _ in parts]
    check_shards(generator, shards, ("samples", "seed", "batch"), "fit-pnorm")
    merged = Moments(generator.w_dim)
    for path, _, moments in parts:
        if len(moments.mean) != generator.w_dim:
            raise StatisticsError(f"{path}: {len(moments.mean)} dimensions, not {generator.w_dim}; remove it")
        merged.merge(moments)
    return _statistics(generator, merged, parts[0][1]["seed"])


def _is_finished(state: FitState) -> bool:
    """Whether a shard has drawn all its batches."""
    return state["next"] >= len(range(state["shard"][0], -(-state["samples"] // state["batch"]), state["shard"][1]))


def read_moments(path: Path) -> tuple[FitState, Moments]:
    """What `PNormFit.save` wrote: its state and the moments. Raises StatisticsError."""
    try:
        tensors, metadata = load_tensors(path, STATISTICS_LIMIT)
        if metadata.get("format") != FORMAT:
            raise StatisticsError(f"{path}: not moments of a P-norm fit")
        state: FitState = parse_json(metadata["state"], FitState)
        i, shards = state["shard"]
        if min(state["samples"], state["batch"]) < 1 or not 0 <= i < shards:
            raise ValueError("its state counts what cannot be")
        return state, Moments.restore(state["count"], tensors["mean"].numpy(), tensors["scatter"].numpy())
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise StatisticsError(f"{path}: damaged moments of a P-norm fit ({error}); remove it") from error


def _statistics(generator: Generator, moments: Moments, seed: int) -> PNorm:
    return PNorm.from_moments(moments, seed=seed, slope=SLOPE, fingerprint=generator.fingerprint, name=generator.name)
