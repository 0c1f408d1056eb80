"""Methods side by side: every recipe on the same images and seeds, each measured alike; every step can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, Unpack

from latentopt.editing.direction import Direction
from latentopt.errors import ImageError, InversionFailed, LatentoptError, MissingWeightsError, StatisticsError
from latentopt.evaluation.dial import Dial, along
from latentopt.evaluation.framework import Asked, Evaluation
from latentopt.evaluation.kept_evaluation import kept_evaluation
from latentopt.evaluation.measure import Measure
from latentopt.evaluation.methods import capped
from latentopt.evaluation.subject import Amounts
from latentopt.inverting.events import Event, Failed, Finished
from latentopt.inverting.following import OnEvent, follow
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread, read
from latentopt.inverting.preparing import prepare
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.watching.interruption import Interrupted, never

AMOUNTS = Amounts(samples=32, paths=2, steps=3, partners=2, lec=2, corruption=200)
DIAL_PARTS = ("reconstruction", "pose", "attributes", "latents")

Work = Callable[[OnEvent, Interrupted], None]
Following = Callable[[Work, int, int, str], object]
"""Does the work on so many images, of so many steps each, by the method of that name, and shows its events."""


def follow_silently(work: Work, images: int, steps: int, name: str) -> None:
    """Do the work without a word."""
    work(lambda event: None, never)


@dataclass(frozen=True)
class Callbacks:
    """How the work is watched.

    watch: does the inversions; on_note: called with what there is to say of the work itself; on_part: with the method
    and the part of its evaluation that begins.
    """

    watch: Following = follow_silently
    on_note: Callable[[str], None] = lambda text: None
    on_part: Callable[[str, str], None] = lambda method, part: None


SILENT = Callbacks()


@dataclass(frozen=True)
class Compared:
    """One method: its recipe as run, its results in the images' order, what was measured of them."""

    name: str
    recipe: Recipe
    results: Sequence[Inversion]
    evaluation: Evaluation

    @property
    def measures(self) -> dict[str, Measure]:
        """The evaluation's, and the seconds of optimisation that an image took."""
        seconds = fmean(result.manifest["seconds"]["optimisation"] for result in self.results)
        cost = Measure("seconds", seconds, None, None, len(self.results), better="lower")  # batches share their time
        return {**self.evaluation.measures, "seconds": cost}


class Swept(NamedTuple):
    """A dial that was turned: the measures at each of its settings."""

    title: str
    about: str
    settings: dict[str, dict[str, Measure]]


def common(results: Mapping[str, Sequence[Inversion]]) -> dict[str, list[Inversion]]:
    """Those images alone that every method finished, in one order: means over different images would not compare."""
    names = [{result.name for result in found} for found in results.values()]
    shared = set.intersection(*names) if names else set()
    return {
        method: sorted((r for r in found if r.name in shared), key=lambda r: r.name)
        for method, found in results.items()
    }


@dataclass
class Comparison:
    """What all methods share, and the work on each of them. Results are written to folders below `outdir`.

    asked: what the evaluations ask for. `compare` fills `compared`, `sweep` adds to `swept`; `notes` gathers what
    there is to say of the work itself, `failed` counts what went wrong.
    """

    generator: Generator
    outdir: Path
    seed: int
    dtype: str
    directions: Mapping[str, Direction]
    asked: Asked
    callbacks: Callbacks = SILENT
    compared: list[Compared] = field(default_factory=list)
    swept: list[Swept] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: int = 0

    def runnable(self, recipes: Mapping[str, Recipe], optional: bool) -> dict[str, Recipe]:
        """Those recipes that have all the files they need. What lacks some is left out with a note.

        Raises MissingWeightsError or StatisticsError for it, if the recipes are not `optional`.
        """
        found = {}
        for name, recipe in recipes.items():
            try:
                prepare(recipe, self.generator)
            except (MissingWeightsError, StatisticsError) as error:
                if not optional:
                    raise
                self.note(f"{name}: left out: {error}")
                continue
            found[name] = recipe
        return found

    def read(self, waiting: Sequence[Item | Unread]) -> list[Item]:
        """The images, read once for all methods. Raises ImageError where none can be."""
        items = []
        for entry in waiting:
            try:
                items.append(read(entry))
            except ImageError as error:
                self.failed += 1
                self.note(f"skipped: {error}")
        if not items:
            raise ImageError(f"none of the {len(waiting)} pictures could be read")
        return items

    def compare(self, recipes: Mapping[str, Recipe], items: Sequence[Item], lec: int) -> None:
        """Every recipe on every image, measured on those that all have finished. Raises LatentoptError for none."""
        done = {name: self.run(name, recipe, items, self.outdir / name) for name, recipe in recipes.items()}
        shared = common(done)
        if not all(shared.values()):
            raise LatentoptError("no picture was finished by every method; see the messages above")
        amounts = replace(AMOUNTS, lec=lec)
        self.compared = [
            Compared(name, recipes[name], results, self._measure(name, results, self.outdir / name, amounts))
            for name, results in shared.items()
        ]

    def run(self, name: str, recipe: Recipe, items: Sequence[Item], folder: Path) -> list[Inversion]:
        """The results of one recipe, those of an earlier call included, read from `folder`; failures are noted."""
        options = (("dtype", self.dtype), ("network", self.generator.name))
        inverter = Inverter(self.generator, recipe, self.seed, folder, options)
        finished: list[str] = []

        def work(on_event: OnEvent, interrupted: Interrupted) -> None:
            def told(event: Event) -> None:
                on_event(event)
                if isinstance(event, Failed):
                    self.failed += 1
                    self.note(f"{name} failed on {event.name}: {event.reason}")
                elif isinstance(event, Finished):
                    finished.append(event.inversion.name)

            with suppress(InversionFailed):
                follow(inverter.invert, items, folder, False, told, interrupted, keep=False, title=f"latentopt: {name}")

        self.callbacks.watch(work, len(items), sum(stage.steps + 1 for stage in recipe.stages), name)
        return [Inversion.load(folder / key) for key in finished]

    def sweep(self, dial: Dial, items: Sequence[Item], steps: int) -> None:
        """The measures at each setting of a dial, at most `steps` steps a stage."""
        folder = self.outdir / f"dial-{dial.name}"
        recipes = {name: capped(recipe, steps) for name, recipe in dial.recipes.items()}
        for recipe in recipes.values():
            prepare(recipe, self.generator)
        found = common({name: self.run(name, recipe, items, folder / name) for name, recipe in recipes.items()})
        if dial.shares:
            first, second = found.values()
            found = {_between(dial, share): along(first, second, share, self.generator) for share in dial.shares}
        if not all(found.values()):
            raise LatentoptError(f"dial {dial.name}: no picture was finished at every setting; see the messages above")
        measures = {
            name: self._measure(f"{dial.name} {name}", results, folder / name, AMOUNTS, parts=DIAL_PARTS).measures
            for name, results in found.items()
        }
        self.swept.append(Swept(dial.title, f"{dial.about} At most {steps} steps a stage.", measures))

    def _measure(
        self, name: str, results: Sequence[Inversion], folder: Path, amounts: Amounts, **more: Unpack[Asked]
    ) -> Evaluation:
        asked: Asked = {**self.asked, **more}
        return kept_evaluation(
            results,
            self.generator,
            folder,
            directions=self.directions,
            amounts=amounts,
            seed=self.seed,
            on_progress=lambda part: self.callbacks.on_part(name, part),
            **asked,
        )

    def note(self, text: str) -> None:
        """Told at once, and in the report."""
        self.notes.append(text)
        self.callbacks.on_note(text)


def _between(dial: Dial, share: float) -> str:
    """What a share of the way between the dial's two recipes is called."""
    first, second = dial.recipes
    return {0.0: first, 1.0: second}.get(share, f"{100 * share:g} %")
