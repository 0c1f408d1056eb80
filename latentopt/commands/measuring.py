"""Statistics that are measured before a recipe can run, under a progress line."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.protocols import Generator
    from latentopt.recipe.recipe import Recipe


def measure_metrics(recipe: Recipe, generator: Generator, quiet: bool) -> None:
    """Measure the metrics that the recipe reads and the generator has not yet; each is said in one line."""
    from latentopt.api import ensure_metrics
    from latentopt.commands.progress import Progress
    from latentopt.inverting.measured import announcement

    progress = Progress(0, "fit-metric", unit="picture", quiet=quiet)
    with ExitStack() as stack:

        def start(path: Path, done: int, total: int) -> None:
            stack.close()
            click.echo(escape_controls(announcement(generator, path)), err=True)
            progress.total, progress.done, progress.before = total, done, done
            stack.enter_context(progress)

        ensure_metrics(generator, recipe, start, lambda count: progress.advance(count))
