"""The metrics that a recipe reads and its generator has not yet: measured on the spot, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from latentopt.errors import UsageError
from latentopt.loop.building import ACCORDINGLY, build_objective
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import Stage
from latentopt.statistics.metric import PIXELS, is_distance
from latentopt.statistics.metric_files import METRIC, in_words, new_metric_path, wanted_distance
from latentopt.statistics.metric_fit import PROBES, Distance
from latentopt.statistics.metric_measure import make_metric
from latentopt.watching.phases import phase, tell


def announcement(generator: Generator, path: Path) -> str:
    return f"{generator.name} has no metric for this recipe yet: measuring it, kept in {path}"


def ensure_metrics(generator: Generator, recipe: Recipe) -> list[Path]:
    """Measure, with the default settings, what the recipe looks for in vain, and keep it in the working folder.

    A metric is for the distance that a stage's own terms compare by, and covers all weights that the recipe moves in
    its coordinates. Returns the files made. Raises UsageError for a space whose metric is for another distance than its
    stage's.
    """
    made = []
    for wanted in _together(_missing(generator, recipe)):
        distance = _distance(generator, wanted)
        path = new_metric_path(generator, wanted.net, wanted.size)
        tell(announcement(generator, path))
        with phase("measuring the metric", PROBES, "pictures") as advance:
            make_metric(generator, distance, path, ",".join(wanted.layers), lambda done, _: advance(done), advance)
        made.append(path)
    return made


@dataclass(frozen=True)
class Wanted:
    """A metric that a stage lacks: its distance as the space names it, and the weights that it is to cover."""

    net: str
    size: int
    layers: tuple[str, ...]
    stage: Stage


def _missing(generator: Generator, recipe: Recipe) -> Iterator[Wanted]:
    usual = ("convs",) if generator.convolutions else ()
    for stage in recipe.stages:
        for reading in stage.reads:
            if reading.kind == "metric" and reading.named is None and not METRIC(generator, None, reading.part):
                layers = (reading.part["layers"],) if "layers" in reading.part else ()
                yield Wanted(*wanted_distance(generator, reading.part), (*usual, *layers), stage)


def _together(missing: Iterator[Wanted]) -> list[Wanted]:
    """One for each distance, which covers what all of them are to cover."""
    found: dict[tuple[str, int], Wanted] = {}
    for wanted in missing:
        first = found.setdefault((wanted.net, wanted.size), wanted)
        layers = tuple(dict.fromkeys((*first.layers, *wanted.layers)))
        found[wanted.net, wanted.size] = replace(first, layers=layers)
    return list(found.values())


def _distance(generator: Generator, wanted: Wanted) -> Distance:
    """The distance by the stage's term that the space names. Raises UsageError where it has none such."""
    image = torch.zeros(1, generator.img_channels, *generator.resolution, device=generator.device)
    terms = build_objective(generator, wanted.stage, image).distances
    if not terms and is_distance(PIXELS, wanted.net, wanted.size):
        return Distance.beside_pixels()
    for name, term in terms.items():
        if is_distance(name, wanted.net, wanted.size):
            return Distance.beside_pixels(name, term.coordinates)
    raise UsageError(
        f"a space of this recipe asks for a metric for the distance by {in_words(wanted.net, wanted.size)}; its stage "
        f"compares by {' and '.join(terms) or PIXELS}: {ACCORDINGLY}"
    )
