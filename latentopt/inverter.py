"""Inversion of many images: batches through a recipe, results as they finish, resumable at any moment."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, LatentoptError, StatisticsError
from latentopt.images import read_image
from latentopt.inversion import Inversion, is_complete, manifest, metrics, run_key
from latentopt.items import Item, Unread, tensor_items
from latentopt.loop import Step
from latentopt.outputs import clear_write_errors
from latentopt.pnorm import PNorm, find_stats
from latentopt.protocols import Generator
from latentopt.recipe import Recipe
from latentopt.run import Run, image_seed

RESUME_FOLDER = ".resume"


@dataclass(frozen=True)
class Progressed:
    """A batch took a step. `run` may be looked at, not changed."""

    run: Run
    stage: int
    step: Step


@dataclass(frozen=True)
class Finished:
    """An image is done (and saved, if there is an output folder); `again` when an earlier run had done it already."""

    inversion: Inversion
    again: bool = False


@dataclass(frozen=True)
class Failed:
    """An image could not be inverted, or (`unreadable`) not even read; the others go on."""

    name: str
    source: str
    reason: str
    unreadable: bool = False


Event = Progressed | Finished | Failed


@dataclass(frozen=True)
class Inverter:
    """A generator and a recipe, ready to invert items.

    `out` is the folder for results (none: nothing is written); `options` is whatever else decides a result (such as how
    pictures were fitted): part of the key that tells stale results.
    """

    generator: Generator
    recipe: Recipe
    seed: int = 0
    out: Path | None = None
    options: tuple[tuple[str, object], ...] = ()
    save_every: float = 10.0

    @cached_property
    def statistics(self) -> tuple[PNorm, Path] | None:
        """The generator's P-norm statistics and their file, or None where none were fitted."""
        try:
            return find_stats(self.generator)
        except StatisticsError:
            return None

    @cached_property
    def statistics_hash(self) -> dict[str, str]:
        if self.statistics is None:
            return {}
        return {self.statistics[1].name: hashlib.sha256(self.statistics[1].read_bytes()).hexdigest()[:16]}

    def run_key(self, item: Item) -> str:
        """Changes with whatever decides the result: a result with another key is stale and made again."""
        options = dict(self.options) | self.statistics_hash
        return run_key(item.target.sha256, self.recipe.digest, self.generator.fingerprint, self.seed, options)

    def invert(
        self, items: Sequence[Item | Unread], interrupted: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Events as they happen. When `interrupted` says so after a step, the state is saved and KeyboardInterrupt raised.

        What an earlier run was in the middle of comes first and goes on where it was; then the rest in order, each batch as
        large as the recipe says. What an earlier run finished is not done again, unless its own batch was left half saved.
        """
        left = {item.name: item for item in items}
        for path, batch in self._interrupted_batches(left):
            for item in batch:
                del left[item.name]
            target, mask = self._tensors(batch)
            run = Run.load(path, self.generator, self.recipe, target, mask)
            yield from self._work(run, batch, interrupted)
        size = max(stage.batch for stage in self.recipe.stages)
        batch: list[Item] = []
        for waiting in left.values():
            try:
                item = waiting.item() if isinstance(waiting, Unread) else waiting
            except ImageError as error:
                yield Failed(waiting.name, waiting.source, str(error), unreadable=True)
                continue
            done = self._done(item)
            if done is not None:
                yield Finished(done, again=True)
                continue
            batch.append(item)
            if len(batch) == size:
                yield from self._work(self._new_run(batch), batch, interrupted)
                batch = []
        if batch:
            yield from self._work(self._new_run(batch), batch, interrupted)

    def _new_run(self, batch: Sequence[Item]) -> Run:
        target, mask = self._tensors(batch)
        names = tuple(item.name for item in batch)
        return Run(self.generator, self.recipe, target, names, tuple(image_seed(self.seed, n) for n in names), mask)

    def _done(self, item: Item) -> Inversion | None:
        """What an earlier run made of exactly this, or None; a result with a damaged file counts as none."""
        if self.out is None or not is_complete(self.out / item.name, self.run_key(item)):
            return None
        try:
            return Inversion.load(self.out / item.name)
        except CheckpointError:
            return None

    def _interrupted_batches(self, left: Mapping[str, Item | Unread]) -> Iterator[tuple[Path, list[Item]]]:
        """The saved batches whose images are all named now. Stale, damaged or finished ones are removed, others' kept."""
        folder = None if self.out is None else self.out / RESUME_FOLDER
        for path in [] if folder is None else sorted(folder.glob("*.safetensors")):
            try:
                names = Run.read_keys(path)
                if not all(name in left for name in names):
                    continue
                waiting = [left[name] for name in names]
                batch = [item.item() if isinstance(item, Unread) else item for item in waiting]
            except (CheckpointError, ImageError):
                path.unlink(missing_ok=True)
                continue
            finished = all(is_complete(self.out / item.name, self.run_key(item)) for item in batch)
            if self._resume_path(batch) == path and not finished:
                yield path, batch
            else:
                path.unlink(missing_ok=True)

    def _resume_path(self, batch: Sequence[Item]) -> Path:
        digest = hashlib.sha256("".join(f"{item.name}{self.run_key(item)}" for item in batch).encode()).hexdigest()
        return self.out / RESUME_FOLDER / f"{digest[:16]}.safetensors"

    def _tensors(self, batch: Sequence[Item]) -> tuple[Tensor, Tensor | None]:
        device = self.generator.device
        target = torch.stack([item.target.image for item in batch]).to(device)
        masks = [item.target.mask for item in batch]
        if all(mask is None for mask in masks):
            return target, None
        whole = torch.ones_like(target[0, :1])
        return target, torch.stack([whole if mask is None else mask.to(device) for mask in masks])

    def _work(self, run: Run, batch: list[Item], interrupted: Callable[[], bool]) -> Iterator[Event]:
        path = None if self.out is None else self._resume_path(batch)
        unsaved = 0.0
        for stage, step in run.steps():
            yield Progressed(run, stage, step)
            unsaved += step.seconds
            stop = interrupted()
            if path is not None and (stop or unsaved > self.save_every):
                with clear_write_errors(path):
                    run.save(path)
                unsaved = 0.0
            if stop:
                raise KeyboardInterrupt
        yield from self._results(run, batch)
        if path is not None:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not there, or another batch still has its state in it
                path.parent.rmdir()

    def _results(self, run: Run, batch: list[Item]) -> Iterator[Event]:
        images = run.images()  # [B,3,H,W]
        target, _ = self._tensors(batch)
        figures = metrics(images.nan_to_num(), target)
        radius = self._radius(run)
        for i, item in enumerate(batch):
            if run.status[i].startswith("failed"):
                yield Failed(item.name, item.source, run.status[i].removeprefix("failed: "))
                continue
            if not images[i].isfinite().all():
                yield Failed(item.name, item.source, "the image drawn from its best latent is not finite")
                continue
            values = {name: value[i].item() for name, value in figures.items()} | run.best_parts(i)
            if radius is not None:
                values["radius"] = radius[i].item()
            inversion = self._inversion(run, item, i, images[i], values)
            if self.out is not None:
                inversion.save(self.out / item.name)
            yield Finished(inversion)

    def _radius(self, run: Run) -> Tensor | None:
        """Root mean square of the P-norm+ code, [B]: about 1 for the generator's own samples. None without statistics."""
        if self.statistics is None:
            return None
        v = self.statistics[0].whiten(run.start.ws.double().cpu())
        return v.square().mean(dim=(1, 2)).sqrt()

    def _inversion(self, run: Run, item: Item, i: int, image: Tensor, values: dict[str, float]) -> Inversion:
        history = run.history[i]
        record = manifest(
            key=self.run_key(item),
            source=item.source,
            target=item.target,
            recipe_name=self.recipe.name,
            recipe_digest=self.recipe.digest,
            generator=self.generator,
            seed=self.seed,
            dtype=getattr(self.generator, "precision", torch.float32),
            seconds={"optimisation": sum(entry["seconds"] for entry in history)},
            steps=max(len(history) - 1, 0),
            stop_reason=run.status[i],
            metrics=values,
            statistics=self.statistics_hash,
            options=dict(self.options),
        )
        inputs = run.start.index([i]).to("cpu")
        return Inversion(item.name, item.target.image, image.cpu(), inputs, self.recipe.dump(), history, record)


def invert(
    generator: Generator,
    images: Tensor | Sequence[str | Path],
    recipe: str | Recipe = "ii2s",
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Inversion]:
    """Find latents of `images` for `generator` with a recipe.

    images: [B,3,H,W] in [-1,1] of the generator's size, or files, which are read, cropped and resized to it.
    recipe: a shipped one's name, a TOML file, or a Recipe. seed: an image's result depends on it and on its name alone, not on
    the others (up to rounding). names: of the results; mask: [B,1,H,W], 1 where the image counts (tensors only).
    out: a folder for results; given one, an interrupted call goes on where it was when repeated. on_event: called with
    Progressed, Finished and Failed records.

    Returns one Inversion per image, in order. Raises LatentoptError when an image cannot be read or fails, UsageError for a
    recipe that does not hold.
    """
    recipe = Recipe.load(recipe) if isinstance(recipe, str) else recipe
    if isinstance(images, Tensor):
        if images.ndim != 4 or tuple(images.shape[2:]) != tuple(generator.resolution):
            raise LatentoptError(f"images are {list(images.shape)}; this generator takes [B,3,{generator.resolution}]")
        items = tensor_items(images, names, mask)
    else:
        paths = [Path(path) for path in images]
        named = names or [path.stem for path in paths]
        targets = [read_image(path, generator.resolution) for path in paths]
        items = [Item(n, str(p), t) for n, p, t in zip(named, paths, targets, strict=True)]
    if len({item.name for item in items}) != len(items):
        raise LatentoptError("two images have the same name; pass distinct names=[...]")
    inverter = Inverter(generator, recipe, seed, None if out is None else Path(out))
    found: dict[str, Inversion] = {}
    for event in inverter.invert(items):
        if on_event is not None:
            on_event(event)
        if isinstance(event, Failed):
            raise LatentoptError(f"{event.source}: {event.reason}")
        if isinstance(event, Finished):
            found[event.inversion.name] = event.inversion
    return [found[item.name] for item in items]
