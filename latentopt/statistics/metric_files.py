"""Which metric goes with a generator, an image distance and the weights that are moved; and where a new one is kept."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from latentopt.errors import StatisticsError, UsageError
from latentopt.perceptual.features import NETS, named_distance
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import FOLDERS, UNFINISHED, FileKind, at_hand
from latentopt.statistics.metric import FORMAT, PIXELS, Metric


@dataclass(frozen=True)
class MetricKind(FileKind[Metric]):
    """Files of metrics; of several that belong to a generator, those for the distance that a space names."""

    def __call__(self, generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
        if named is not None:
            return [Path(named)]
        found = metric_at_hand(generator, *wanted_distance(generator, part), weights_of(generator, part))
        return [] if found is None else [found[1]]


NONE = "none"  # the distance of pixels alone
METRIC = MetricKind(
    "metric",
    FORMAT,
    "metric",
    FOLDERS[0],
    ".metric.safetensors",
    "fit-metric",
    Metric.load,
    unfinished=UNFINISHED,
)


def check_distance(net: str, size: int | None) -> None:
    """Raise UsageError for a distance that there is not."""
    if net not in (*NETS, NONE):
        raise UsageError(f"the net of a metric, {net!r}, is not one of {', '.join(NETS)}, {NONE}")
    if size is not None and size < 16:
        raise UsageError(f"the size that a metric is for must be at least 16 pixels, not {size}")


def wanted_distance(generator: Generator, part: Mapping[str, Any]) -> tuple[str, int]:
    """The network and the height of images that a space's options name."""
    return named_distance(generator, part.get("metric_net") or "auto", part.get("metric_size"))


def weights_of(generator: Generator, part: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights that a space moves, by its option `layers`; none for a space of latents."""
    from latentopt.generators.tunable import choose_weights

    return choose_weights(generator, part["layers"]) if "layers" in part else ()


def metric_at_hand(
    generator: Generator, net: str = "auto", size: int | None = None, weights: Collection[str] = ()
) -> tuple[Metric, Path] | None:
    """The preferred metric for a distance (`Distance.of`) that covers `weights`, and its file; None without one.

    Raises as `latentopt.statistics.at_hand.at_hand` does.
    """
    wanted = named_distance(generator, net, size)
    found = (pair for pair in at_hand(METRIC, generator) if pair[0].is_for(*wanted))
    return next((pair for pair in found if set(weights) <= set(pair[0].weights)), None)


def given_or_found_metric(
    generator: Generator,
    given: str | None = None,
    net: str = "auto",
    size: int | None = None,
    weights: Collection[str] = (),
) -> tuple[Metric, Path]:
    """What the `given` file holds or, without one, what is at hand; and the file.

    Raises StatisticsError, with the command that makes one, where there is none, or where the given one is for another
    distance or lacks some of `weights`.
    """
    net, size = named_distance(generator, net, size)
    if given is None:
        found = metric_at_hand(generator, net, size, weights)
        if found is None:
            whom = f"{generator.name!r} ({generator.fingerprint}) for {in_words(net, size)}"
            what = f" that covers {', '.join(weights)}" if weights else ""
            raise StatisticsError(f"no metric of {whom}{what}; {remedy(generator, net, size, ','.join(weights))}")
        return found
    metric = Metric.load(Path(given), generator)
    if not metric.is_for(net, size):
        raise StatisticsError(
            f"{given}: a metric for the distance by {metric.distance}, not by {in_words(net, size)}; "
            f"{remedy(generator, net, size)}, or set metric_net and metric_size to those of the file"
        )
    if missing := [name for name in weights if name not in metric.weights]:
        raise StatisticsError(
            f"{given}: this metric lacks {', '.join(missing)}; {remedy(generator, net, size, ','.join(weights))}"
        )
    return metric, Path(given)


def metric_path(generator: Generator, net: str = "auto", size: int | None = None) -> Path:
    """Where the metric for a distance is kept (`FileKind.new_path`): the distance is named where it is not the default
    one.
    """
    chosen = named_distance(generator, net, size)
    if chosen == named_distance(generator):
        return METRIC.new_path(generator)
    of = NONE if chosen[0] == NONE else f"{chosen[0]}-{chosen[1]}"
    return METRIC.new_path(generator, f".{of}{METRIC.suffix}")


def new_metric_path(generator: Generator, net: str = "auto", size: int | None = None) -> Path:
    """The same for a new one; with a number where there is one already."""
    path = metric_path(generator, net, size)
    stem = path.name.removesuffix(METRIC.suffix)
    numbered = (path.with_name(f"{stem}-{i}{METRIC.suffix}") for i in count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


def in_words(net: str, size: int) -> str:
    """A distance by the settings that name it."""
    return PIXELS if net == NONE else f"{net} at {size} pixels"


def remedy(generator: Generator, net: str, size: int, layers: str = "") -> str:
    """The command that measures a metric."""
    asked = f"--net {net}" + ("" if net == NONE else f" --size {size}")
    return f"run {METRIC.to_make(generator, asked + (f' --layers {shlex.quote(layers)}' if layers else ''))}"
