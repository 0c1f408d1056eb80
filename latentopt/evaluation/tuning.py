"""Tuning, with what it did to the rest of the generator measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentopt.evaluation.corruption import change_by, fitting_pictures
from latentopt.inverting.events import Measured
from latentopt.inverting.following import OnEvent
from latentopt.inverting.work import Results
from latentopt.inverting.work import tune as tune_results
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion


def tune(
    generator: Generator,
    results: Results,
    method: str | Path | Recipe = "wrangan",
    *,
    corruption: int | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> list[Inversion]:
    """Change the generator's weights so that it draws inverted images better: see `latentopt.inverting.work.tune`.

    corruption: how many pictures are drawn to measure what tuning did to the rest of the generator, 0 for none; by
    default as many as cost a few per cent of the tuning (`latentopt.evaluation.corruption.fitting_pictures`).
    """

    def measured(pictures: int) -> None:
        if on_event is not None:
            on_event(Measured(pictures))

    watched = {} if options.get("engine") else {"on_progress": measured}
    recipe = method if isinstance(method, Recipe) else Recipe.load(str(method))
    n = fitting_pictures(recipe) if corruption is None else corruption
    return tune_results(generator, results, recipe, change=change_by(n, **watched), on_event=on_event, **options)
