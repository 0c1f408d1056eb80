"""The work behind `latentopt compare`: every recipe on the same pictures, each measured alike; every step can be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.batches import watched
from latentopt.commands.terminal import escape_controls
from latentopt.commands.tune import sigma_of
from latentopt.errors import ImageError, LatentoptError, MissingWeightsError, StatisticsError
from latentopt.evaluation.comparison import AMOUNTS, Compared, capped, check_recipe, common, measured
from latentopt.evaluation.corruption import change_by
from latentopt.evaluation.dial import Dial, along
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread
from latentopt.inverting.work import follow
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion

if TYPE_CHECKING:
    from latentopt.editing.direction import Direction
    from latentopt.evaluation.framework import Evaluation
    from latentopt.evaluation.measure import Measure
    from latentopt.protocols import Generator

DIAL_PARTS = ("reconstruction", "pose", "attributes", "latents")

Swept = tuple[str, str, dict[str, dict[str, "Measure"]]]  # title, what was swept, measures by setting


@dataclass
class Session:
    """What all methods share. `asked`: judge, pose and metrics of the evaluation.

    `notes` gathers what the report has to say of the work itself, `failed` counts what went wrong.
    """

    generator: Generator
    outdir: Path
    seed: int
    dtype: str
    quiet: bool
    directions: Mapping[str, Direction]
    asked: Mapping[str, object]
    notes: list[str] = field(default_factory=list)
    failed: int = 0

    def runnable(self, recipes: Mapping[str, Recipe], optional: bool) -> dict[str, Recipe]:
        """Those that have all the files they need; what lacks some is left out with a note, or raises if not `optional`."""
        found = {}
        for name, recipe in recipes.items():
            try:
                check_recipe(recipe, self.generator)
            except (MissingWeightsError, StatisticsError) as error:
                if not optional:
                    raise
                self.note(f"{name}: left out: {error}")
                continue
            if recipe.looks_for("sigma"):
                sigma_of(recipe, self.generator, self.quiet)
            found[name] = recipe
        return found

    def read(self, waiting: Sequence[Unread]) -> list[Item]:
        """The pictures, read once for all methods. Raises ImageError where none can be."""
        items = []
        for unread in waiting:
            try:
                items.append(unread.item())
            except ImageError as error:
                self.failed += 1
                self.note(f"skipped: {error}")
        if not items:
            raise ImageError(f"none of the {len(waiting)} pictures could be read")
        return items

    def compare(self, recipes: Mapping[str, Recipe], items: Sequence[Item], lec: int) -> list[Compared]:
        """Every recipe on every picture, measured on those that all have finished. Raises LatentoptError for none."""
        done = {name: self.run(name, recipe, items, self.outdir / name) for name, recipe in recipes.items()}
        shared = common(done)
        if not all(shared.values()):
            raise LatentoptError("no picture was finished by every method; see the messages above")
        amounts = replace(AMOUNTS, lec=lec)
        return [
            Compared(name, recipes[name], results, self._measure(name, results, self.outdir / name, amounts=amounts))
            for name, results in shared.items()
        ]

    def run(self, name: str, recipe: Recipe, items: Sequence[Item], folder: Path) -> list[Inversion]:
        """The results of one recipe, those of an earlier call included; failures are noted."""
        options = (("dtype", self.dtype), ("network", self.generator.name))
        inverter = Inverter(self.generator, recipe, self.seed, folder, options, change=change_by(AMOUNTS.corruption))
        call = partial(follow, inverter.invert, list(items), folder, overwrite=False, keep=False)
        steps = sum(stage.steps + 1 for stage in recipe.stages)
        rows = watched(call, len(items), steps=steps, verb=name, quiet=self.quiet)
        for row in rows:
            if row["status"] != "ok":
                self.failed += 1
                self.note(f"{name} failed on {row['name']}: {row['error']}")
        return [Inversion.load(folder / row["name"]) for row in rows if row["status"] == "ok"]

    def sweep(self, dial: Dial, items: Sequence[Item], steps: int) -> Swept:
        """The measures at each setting of a dial, at most `steps` steps a stage."""
        folder = self.outdir / f"dial-{dial.name}"
        recipes = {name: capped(recipe, steps) for name, recipe in dial.recipes.items()}
        for recipe in recipes.values():
            check_recipe(recipe, self.generator)
        found = common({name: self.run(name, recipe, items, folder / name) for name, recipe in recipes.items()})
        if dial.shares:
            first, second = found.values()
            found = {self._between(dial, share): along(first, second, share, self.generator) for share in dial.shares}
        if not all(found.values()):
            raise LatentoptError(f"dial {dial.name}: no picture was finished at every setting; see the messages above")
        about = f"{dial.about} At most {steps} steps a stage."
        measures = {
            name: self._measure(f"{dial.name} {name}", results, folder / name, parts=DIAL_PARTS).measures
            for name, results in found.items()
        }
        return dial.title, about, measures

    @staticmethod
    def _between(dial: Dial, share: float) -> str:
        first, second = dial.recipes
        return {0.0: first, 1.0: second}.get(share, f"{100 * share:g} %")

    def _measure(self, name: str, results: Sequence[Inversion], folder: Path, **options: object) -> Evaluation:
        def say(part: str) -> None:
            if not self.quiet:
                click.echo(escape_controls(f"measuring {name}: {part}"), err=True)

        return measured(
            results,
            self.generator,
            folder,
            directions=self.directions,
            seed=self.seed,
            on_progress=say,
            **self.asked,
            **options,
        )

    def note(self, text: str) -> None:
        """Said at once, and in the report."""
        self.notes.append(text)
        click.echo(escape_controls(text), err=True)
