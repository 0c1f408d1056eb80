"""Methods run on portraits with the CPU time, the work and the distance after every step: kept image by image.

Work is counted in units that do not depend on the machine: drawing a picture is 1, with its gradient 3. The locality
term draws twice more, once with a gradient: 4. Layers that are not drawn again, since they cannot change, count too.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentopt.checkpoints.networks import load_generator
from latentopt.data.portraits import portraits
from latentopt.errors import LatentoptError
from latentopt.files.storage import write_text
from latentopt.inverting.events import Finished, Progressed
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, tensor_items
from latentopt.inverting.tuning import inversion_item
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import Stage
from latentopt.results.inversion import Inversion

FOLDER = Path("work/benchmarks/fast")


@dataclass(frozen=True)
class Method:
    """A recipe under the name that it has in the tables; `start`: the method whose results it goes on from."""

    name: str
    recipe: Recipe
    start: Method | None = None

    def sized(self, batch: int) -> Method:
        stages = tuple(replace(stage, batch=batch) for stage in self.recipe.stages)
        start = None if self.start is None else self.start.sized(batch)
        return Method(self.name, replace(self.recipe, stages=stages), start)


@dataclass(frozen=True)
class Point:
    """After a measurement: CPU seconds and units so far, an image; the perceptual distance and the loss there."""

    cpu: float
    units: float
    perceptual: float
    loss: float


@dataclass(frozen=True)
class Runs:
    """The runs on `seeds` of the portraits with one generator, in groups of `batch` images, in one precision."""

    network: str
    seeds: tuple[int, ...]
    batch: int = 1
    dtype: str = "float32"

    @cached_property
    def generator(self) -> Generator:
        generator = load_generator(self.network).requires_grad_(False)
        if self.dtype != "float32":
            generator.set_precision(getattr(torch, self.dtype)).set_memory_format(torch.channels_last)
        return generator

    @property
    def names(self) -> list[str]:
        return [str(seed) for seed in self.seeds]

    @property
    def groups(self) -> list[list[str]]:
        return [self.names[i : i + self.batch] for i in range(0, len(self.seeds), self.batch)]

    def finished(self, methods: Sequence[Method]) -> Runs:
        """Of those images alone that all the methods have been run on."""
        sized = [method.sized(self.batch) for method in methods]
        done = [seed for seed in self.seeds if all(self._trace_path(m, str(seed)).is_file() for m in sized)]
        return replace(self, seeds=tuple(done))

    def folder(self, method: Method) -> Path:
        where = f"{self.network}-{self.batch}-{self.dtype}"
        start = "" if method.start is None else f"-{method.start.recipe.digest}"
        return FOLDER / where / f"{method.name.replace(' ', '-').replace('.', '')}-{method.recipe.digest}{start}"

    def run(self, methods: Sequence[Method], say: bool = True) -> None:
        """What is not there yet; the methods take turns on each group, so that a slow minute falls on all."""
        sized = [method.sized(self.batch) for method in methods]
        self._warm_up(sized[0])
        for group in self.groups:
            for method in sized:
                if not all(self._trace_path(method, name).is_file() for name in group):
                    self._run(method, group)
                    if say:
                        cpu, _ = self.whole(method, group[0])
                        print(f"{method.name} {group[0]} ({len(group)}): {cpu:.2f} CPU s", flush=True)

    def targets(self, names: Sequence[str]) -> Tensor:
        """Pictures [B,C,H,W] in [-1,1]."""
        return portraits([int(name) for name in names], self.generator.resolution)[0]

    def _warm_up(self, method: Method) -> None:
        """What only the first run of a process does, such as importing, falls on no method."""
        recipe = method.recipe
        short = recipe.changed({("stages", i, "steps"): 1 for i in range(len(recipe.stages))})
        for _ in Inverter(self.generator, short).invert(tensor_items(self.targets(["0"]))):
            pass

    def _run(self, method: Method, group: list[str]) -> None:
        inverter = Inverter(self.generator, method.recipe, 0, self.folder(method), save_every=math.inf)
        traces: dict[str, list[Point]] = {name: [] for name in group}
        spent, done = dict.fromkeys(group, 0.0), dict.fromkeys(group, 0)
        items, before = self._items(method, group), time.process_time()
        for name in group:
            (self.folder(method) / name / "run.json").unlink(missing_ok=True)
        for event in inverter.invert(items):
            passed = time.process_time() - before
            if isinstance(event, Progressed):
                stage, step = method.recipe.stages[event.stage], event.step
                for i, row in enumerate(step.rows):
                    name = event.batch.keys[row]
                    spent[name] += passed / len(step.rows)
                    done[name] += units(stage)
                    traces[name].append(Point(spent[name], done[name], step.parts["perceptual"][i], step.loss[i]))
            elif not isinstance(event, Finished):
                raise LatentoptError(f"{method.name}: {event.name} failed: {event.reason}")
            before = time.process_time()  # what is done with a record, files included, is not the method's
        for name, trace in traces.items():
            write_text(self._trace_path(method, name), json.dumps([list(vars(point).values()) for point in trace]))

    def _items(self, method: Method, group: list[str]) -> list[Item]:
        if method.start is not None:
            return [inversion_item(Inversion.load(self.folder(method.start) / name)) for name in group]
        return tensor_items(self.targets(group), group)

    def _trace_path(self, method: Method, name: str) -> Path:
        return self.folder(method) / f"{name}.json"

    def results(self, method: Method) -> list[Inversion]:
        return [Inversion.load(self.folder(method.sized(self.batch)) / name) for name in self.names]

    def trace(self, method: Method, name: str) -> list[Point]:
        """Of one image, with what was spent on the method that it started from."""
        method = method.sized(self.batch)
        own = [Point(*values) for values in json.loads(self._trace_path(method, name).read_text())]
        cpu, done = (0.0, 0.0) if method.start is None else self.whole(method.start, name)
        return [replace(point, cpu=point.cpu + cpu, units=point.units + done) for point in own]

    def whole(self, method: Method, name: str) -> tuple[float, float]:
        """CPU seconds and units of the whole method."""
        last = self.trace(method, name)[-1]
        return last.cpu, last.units

    def reach(self, method: Method, name: str, perceptual: float) -> tuple[float, float] | None:
        """CPU seconds and units until the distance was that low; None where it never was."""
        found = (point for point in self.trace(method, name) if point.perceptual <= perceptual)
        return next(((point.cpu, point.units) for point in found), None)


def units(stage: Stage) -> int:
    """Of one step of a stage for one image."""
    return 3 + 4 * sum(part["name"] == "locality" for part in stage.terms)


def published() -> dict[str, Method]:
    """Pivotal tuning with its published schedule: 450 steps for the pivot, 350 for the weights, no early stop; with the
    locality term of the paper, and without, as the released code has it by default. And as we ship it, with its stop.
    """
    pivoting, tuning = Recipe.load("pti").split()
    pivot = Method("pivot", pivoting)
    full = tuning.changed({("stages", 0, "stop"): None})
    plain = full.table()
    plain["stages"][0]["terms"] = [term for term in plain["stages"][0]["terms"] if term["name"] != "locality"]
    return {
        "pivot": pivot,
        "pti": Method("pti", full, pivot),
        "pti, no locality": Method("pti, no locality", Recipe.from_table(plain), pivot),
        "pti, stop at .01": Method("pti, stop at .01", tuning, pivot),
    }


def tuned(name: str, below: float, **changes: object) -> Method:
    """`fast-tune` until the perceptual distance is `below`; changes: of keys such as `stages_0_steps`."""
    recipe = Recipe.load("fast-tune").changed({("stages", 1, "stop", "below"): below})
    keys = {tuple(int(k) if k.isdigit() else k for k in key.split("__")): value for key, value in changes.items()}
    return Method(name, recipe.changed(keys))
