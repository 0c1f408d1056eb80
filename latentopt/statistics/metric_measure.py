"""The metric as a file: measured once, in one go or in shards, checked against what is there, and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentopt.errors import StatisticsError
from latentopt.protocols import Generator
from latentopt.statistics.kept import REMEDY, kept
from latentopt.statistics.metric import Metric
from latentopt.statistics.metric_fit import BATCH, PROBES, Distance, MetricFit, merge_metric_shards
from latentopt.statistics.shards import find_shards, follow_fit, keep_fit, partial_path, shard_path


def measure_metric(
    generator: Generator,
    out: Path,
    *,
    net: str = "auto",
    size: int | None = None,
    weights: str | None = None,
    layers: str = "convs",
    probes: int = PROBES,
    seed: int = 0,
    batch: int = BATCH,
    shard: tuple[int, int] | None = None,
    overwrite: bool = False,
    on_start: Callable[[int, int], object] = lambda done, total: None,
    on_progress: Callable[[int], object] = lambda count: None,
    on_kept: Callable[[int], object] = lambda count: None,
) -> tuple[Metric | Path, bool]:
    """Draw pictures and keep the metric in `out`; of a `shard` (i, N) only its moments, whose file is returned. And
    whether that was done now: a metric by the same settings that is there already is not measured again.

    The settings are those of `fit_metric`; on_start, on_progress and on_kept those of `follow_fit`. What an interrupted
    call drew is kept beside `out`, and the same call goes on from there. overwrite: replace `out` whatever it is.

    Raises UsageError for settings that cannot be meant, StatisticsError for a file that must not be replaced.
    """
    distance = Distance.of(generator, net, size, weights)
    partial = partial_path(out) if shard is None else shard_path(out, shard)
    fit = MetricFit(
        generator, distance, probes, layers=layers, seed=seed, batch=batch, shard=shard or (0, 1), partial=partial
    )
    existing = None if overwrite or shard is not None else kept_metric(out, generator, distance.name)
    if existing is not None and (existing.n, existing.seed, set(existing.weights)) == (probes, seed, set(fit.names)):
        return existing, False
    follow_fit(fit, on_start, on_progress, on_kept)
    return (keep_metric(fit.result(), out) if shard is None else partial), True


def kept_metric(out: Path, generator: Generator, distance: str) -> Metric | None:
    """The metric already at `out`. Raises StatisticsError for another generator's, or one for another distance."""
    metric = kept(out, generator, Metric.load)
    if metric is not None and metric.distance != distance:
        raise StatisticsError(f"{out}: a metric for the distance by {metric.distance}, not by {distance}; {REMEDY}")
    return metric


def make_metric(
    generator: Generator,
    distance: Distance,
    out: Path,
    layers: str,
    on_start: Callable[[int, int], object] = lambda done, total: None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> Metric:
    """Measure the metric for any distance with the default settings and keep it in `out`, where nothing is yet."""
    fit = MetricFit(generator, distance, layers=layers, partial=partial_path(out))
    follow_fit(fit, on_start, on_progress, lambda count: None)
    return keep_metric(fit.result(), out)


def merge_metric(generator: Generator, out: Path) -> Metric:
    """Merge the finished shards beside `out` into it. Raises StatisticsError as `merge_metric_shards`."""
    return keep_metric(merge_metric_shards(generator, find_shards(out)), out, merged=True)


def keep_metric(metric: Metric, out: Path, merged: bool = False) -> Metric:
    """Save a metric as `out`, as `keep_fit` does."""
    keep_fit(metric, out, merged)
    return metric
