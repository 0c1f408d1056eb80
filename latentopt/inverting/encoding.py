"""Many pictures through an encoder: results in folders like an inversion's, made again only where something changed."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.encoders.changes import MeanChange, heat_maps, image_change, latent_change
from latentopt.encoders.inference import Encoding
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import save_tensors, write_text
from latentopt.inverting.events import Failed, Finished
from latentopt.inverting.items import Item, Unread, in_batches
from latentopt.inverting.keeping import Keeping
from latentopt.loop.building import build_objective
from latentopt.loop.refining import make_refiner
from latentopt.pictures.images import save_png
from latentopt.protocols import Generator, Refiner
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics
from latentopt.results.inversion import Inversion
from latentopt.results.manifest import manifest
from latentopt.results.redrawing import refiner_record
from latentopt.types import GeneratorInputs, View
from latentopt.watching.interruption import Interrupted, never


@dataclass(frozen=True)
class Trajectory:
    """A batch on its way: start and result of each step, inputs and pictures [B,3,H,W], and seconds an image. What a
    refiner adds is the last step.
    """

    inputs: list[GeneratorInputs]
    images: list[Tensor]
    seconds: float

    @property
    def changes(self) -> Tensor:
        """What each step changed in the pictures, [B,S,H,W]."""
        pairs = zip(self.images[:-1], self.images[1:], strict=True)
        return torch.stack([image_change(a, b) for a, b in pairs], dim=1)


@dataclass(frozen=True)
class BatchEncoder:
    """An encoding, ready for items. `recipe` says the same as a recipe of no steps; its terms measure the results.

    out: folder of the results (none: nothing is written); keep_steps: also every step's picture and codes; changes:
    where what each step changed is gathered, and drawn for each image. options: whatever else decides a result.
    """

    encoding: Encoding
    recipe: Recipe
    out: Path | None = None
    batch: int = 8
    keep_steps: bool = False
    changes: MeanChange | None = None
    options: tuple[tuple[str, object], ...] = ()
    networks: dict[str, str] = field(default_factory=dict)

    @cached_property
    def refiner(self) -> Refiner | None:
        """What refines the codes, where the recipe ends with that."""
        return make_refiner(self.encoding.generator, self.recipe.stages[-1])

    @cached_property
    def keeping(self) -> Keeping:
        """The results of earlier runs."""
        decides = dict(self.options) | {"encoder": self.encoding.record, "keep_steps": self.keep_steps}
        return Keeping(self.encoding.generator, self.recipe, 0, self.out, decides)

    together = False  # no image depends on the others

    @property
    def generator(self) -> Generator:
        return self.encoding.generator

    @property
    def size(self) -> int:
        """Images of a batch."""
        return self.batch

    def encode(
        self, items: Sequence[Item | Unread], interrupted: Interrupted = never, place: str = ""
    ) -> Iterator[Finished | Failed]:
        """Results as they come, a batch at a time. Finished ones are not made again, unless changes are gathered.

        Raises KeyboardInterrupt before a batch when `interrupted` says so. Nothing is saved on the way, at no `place`.
        """
        done = self.keeping.done if self.changes is None else lambda item: None
        for ready in in_batches(items, self.batch, done):
            if not isinstance(ready, list):
                yield ready
                continue
            if interrupted():
                raise KeyboardInterrupt
            yield from self._work(ready)

    def _work(self, batch: Sequence[Item]) -> Iterator[Finished | Failed]:
        generator = self.encoding.generator
        target = torch.stack([item.target.image for item in batch]).to(generator.device)
        way = self._trajectory(target)
        history = self._history(way, target)
        if self.changes is not None:
            self.changes.add(way.changes)
        for i, item in enumerate(batch):
            if not way.images[-1][i].isfinite().all():
                yield Failed(item.name, item.source, "the encoder's codes give no finite picture")
                continue
            inversion = self._result(way, item, i, [{name: row[i] for name, row in step.items()} for step in history])
            if self.out is not None:
                self._save_steps(way, i, self.out / item.name)
                inversion.save(self.out / item.name)
            yield Finished(inversion)

    @torch.no_grad()
    def _trajectory(self, target: Tensor) -> Trajectory:
        generator = self.encoding.generator
        start, first = self.encoding.begin(target)
        refiner = self.refiner
        began = time.perf_counter()
        steps = self.encoding(target)
        if refiner is not None:
            steps.append(refiner(target, steps[-1], steps[-1]))
        last = generator.synthesis(steps[-1]).float()
        if last.is_cuda:
            torch.cuda.synchronize(last.device)
        seconds = (time.perf_counter() - began) / len(target)
        between = [generator.synthesis(inputs).float() for inputs in steps[:-1]]
        return Trajectory([start, *steps], [first, *between, last], seconds)

    @torch.no_grad()
    def _history(self, way: Trajectory, target: Tensor) -> list[dict[str, list]]:
        """For each step the terms' values and what it changed, one value an image."""
        generator, batch = self.encoding.generator, len(target)
        stage = self.recipe.stages[-1]
        objective = build_objective(generator, stage, target)
        self.networks.update(objective.networks)
        records = []
        for step, (inputs, image) in enumerate(zip(way.inputs, way.images, strict=True)):
            loss, parts = objective(View(image, target, inputs, {}, 1.0, step=step))
            record = {"stage": [0] * batch, "step": [step] * batch, "loss": loss.tolist()}
            record |= {name: values.tolist() for name, values in parts.items()}
            if step:
                record["change"] = image_change(way.images[step - 1], image).mean(dim=(1, 2)).tolist()
                groups = latent_change(way.inputs[step - 1].ws, inputs.ws)
                record |= {name: values.tolist() for name, values in groups.items()}
            records.append(record)
        return records

    def _result(self, way: Trajectory, item: Item, i: int, history: list[dict]) -> Inversion:
        encoding, image = self.encoding, way.images[-1][i].cpu()
        values = {name: value.item() for name, value in metrics(image[None], item.target.image[None]).items()}
        values |= {key: history[-1][key] for key in ("loss", *(term["name"] for term in self.recipe.stages[-1].terms))}
        record = manifest(
            key=self.keeping.key(item),
            source=item.source,
            target=item.target,
            recipe_name=self.recipe.name,
            recipe_digest=self.recipe.digest,
            generator=encoding.generator,
            seed=0,
            dtype=encoding.generator.precision,
            seconds={"encoding": way.seconds},
            steps=len(way.inputs) - 1,
            stop_reason="encoded",
            metrics=values,
            statistics=self.keeping.files,
            options=dict(self.options),
            networks=self.networks,
            noise_mode=self.recipe.stages[-1].noise_mode,
            encoder=dict(encoding.record),
            changes=[{k: v for k, v in row.items() if k in ("step", *CHANGES)} for row in history[1:]],
        )
        if self.refiner is not None:
            record["refiner"] = refiner_record(self.recipe, self.refiner)
        inputs = way.inputs[-1].index([i]).to("cpu")
        return Inversion(item.name, item.target.image, image, inputs, self.recipe.dump(), history, record)

    def _save_steps(self, way: Trajectory, i: int, folder: Path) -> None:
        for pattern in ("step-*.png", "steps.safetensors", "heat-map-*.png"):  # an earlier run's, perhaps of more steps
            for path in folder.glob(pattern):
                path.unlink()
        if self.keep_steps:
            for step, image in enumerate(way.images):
                save_png(folder / f"step-{step}.png", image[i])
            with clear_write_errors(folder / "steps.safetensors"):
                save_tensors(folder / "steps.safetensors", {"ws": torch.cat([x.ws[i : i + 1] for x in way.inputs])})
        if self.changes is not None:
            for step, picture in enumerate(heat_maps(way.changes[i]), 1):
                save_png(folder / f"heat-map-{step}.png", picture)


CHANGES = ("change", "coarse", "medium", "fine")


class StepMeans:
    """For each step the mean over images of what was measured, and of what the step changed."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        self.sums: list[dict[str, tuple[float, int]]] = []
        self.images: list[int] = []

    def add(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One image's."""
        if not self.images:
            self.columns = dict.fromkeys(k for record in history for k in record if k not in ("stage", "step"))
        for step, record in enumerate(history):
            if step == len(self.images):
                self.images.append(0)
                self.sums.append(dict.fromkeys(self.columns, (0.0, 0)))
            self.images[step] += 1
            for key, (total, count) in self.sums[step].items():
                if record.get(key) is not None:
                    self.sums[step][key] = (total + record[key], count + 1)

    def write(self, path: Path) -> None:
        """As steps.csv; nothing where no image was added."""
        if not self.images:
            return
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["step", "images", *self.columns])
        for step, (images, sums) in enumerate(zip(self.images, self.sums, strict=True)):
            means = [f"{total / count:.6g}" if count else "" for total, count in sums.values()]
            writer.writerow([step, images, *means])
        with clear_write_errors(path):
            write_text(path, stream.getvalue())
