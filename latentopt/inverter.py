"""Inversion of many images: batches through a recipe, results as they finish, resumable at any moment."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.events import Event, Failed, Finished, Progressed
from latentopt.inversion import Inversion, is_complete
from latentopt.items import Item, Unread
from latentopt.manifest import run_key
from latentopt.outputs import clear_write_errors
from latentopt.protocols import Generator
from latentopt.recipe import Recipe
from latentopt.recipe_files import recipe_files
from latentopt.results import result
from latentopt.run import Run, image_seed
from latentopt.types import GeneratorInputs

__all__ = ["Event", "Failed", "Finished", "Inverter", "Progressed"]

RESUME_FOLDER = ".resume"


@dataclass(frozen=True)
class Inverter:
    """A generator and a recipe, ready to invert items.

    `out` is the folder for results (none: nothing is written); `options` is whatever else decides a result (such as how
    pictures were fitted): part of the key that tells stale results. `corruption` is the number of pictures by which a
    tuned generator is compared with the untouched one (see latentopt.evaluation.corruption); 0 leaves that out.
    """

    generator: Generator
    recipe: Recipe
    seed: int = 0
    out: Path | None = None
    options: tuple[tuple[str, object], ...] = ()
    save_every: float = 10.0
    corruption: int = 1000

    @cached_property
    def files(self) -> dict[str, str]:
        """The files that the recipe reads beside the generator, with their hashes."""
        return recipe_files(self.recipe, self.generator)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(self.generator, "precision", torch.float32)

    def run_key(self, item: Item) -> str:
        """Changes with whatever decides the result: a result with another key is stale and made again."""
        options = dict(self.options) | {"files": sorted(self.files.values()), "dtype": str(self.dtype)}
        if item.start is not None:
            options["start"] = item.start.digest
        return run_key(item.target.sha256, self.recipe.digest, self.generator.fingerprint, self.seed, options)

    def invert(
        self, items: Sequence[Item | Unread], interrupted: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Events as they happen. When `interrupted` says so after a step, the state is saved and KeyboardInterrupt raised.

        What an earlier run was in the middle of comes first and goes on where it was; then the rest in order, each batch as
        large as the recipe says. What an earlier run finished is not done again, unless its own batch was left half saved.
        Images that share variables are one batch.
        """
        left = {item.name: item for item in items}
        if self.recipe.shares:
            group = replace(self, options=(*self.options, ("group", sorted(left))))
            yield from group._invert(left, len(left), interrupted)
        else:
            yield from self._invert(left, max(stage.batch for stage in self.recipe.stages), interrupted)

    def _invert(self, left: dict[str, Item | Unread], size: int, interrupted: Callable[[], bool]) -> Iterator[Event]:
        for path, batch in self._interrupted_batches(left):
            target, mask = self._tensors(batch)
            try:
                run = Run.load(path, self.generator, self.recipe, target, mask)
            except CheckpointError:  # damaged: its images wait for their turn again
                path.unlink(missing_ok=True)
                continue
            for item in batch:
                del left[item.name]
            yield from self._work(run, batch, interrupted)
        batch: list[Item] = []
        finished: list[Inversion] = []
        for waiting in left.values():
            try:
                item = waiting.item() if isinstance(waiting, Unread) else waiting
            except (ImageError, CheckpointError) as error:
                yield Failed(waiting.name, waiting.source, str(error), unreadable=True)
                continue
            done = self._done(item)
            if done is not None and not self.recipe.shares:
                yield Finished(done, again=True)
                continue
            finished += [] if done is None else [done]
            batch.append(item)
            if len(batch) == size and not self.recipe.shares:
                yield from self._work(self._new_run(batch), batch, interrupted)
                batch = []
        if finished and len(finished) == len(batch):
            yield from (Finished(done, again=True) for done in finished)
        elif batch:
            yield from self._work(self._new_run(batch), batch, interrupted)

    def _new_run(self, batch: Sequence[Item]) -> Run:
        target, mask = self._tensors(batch)
        names = tuple(item.name for item in batch)
        run = Run(self.generator, self.recipe, target, names, tuple(image_seed(self.seed, n) for n in names), mask)
        starts = [item.start.inputs for item in batch if item.start is not None]
        if self.recipe.needs_start and len(starts) == len(batch):
            try:
                run.start = GeneratorInputs.cat(starts).to(self.generator.device)
            except ValueError as error:
                raise UsageError(f"{error}; tune the results of one recipe at a time") from error
        return run

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
        if path is not None and run.start.deltas is not None and self.corruption:  # measuring it takes a while
            with clear_write_errors(path):
                run.save(path)
        yield from self._results(run, batch, interrupted)
        if path is not None:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not there, or another batch still has its state in it
                path.parent.rmdir()

    def _results(self, run: Run, batch: list[Item], interrupted: Callable[[], bool]) -> Iterator[Event]:
        """What has become of each image; a tuned one takes a while, so that one may stop between two."""
        images = run.images()  # [B,3,H,W]
        for i, item in enumerate(batch):
            done = None if run.start.deltas is None else self._done(item)
            if done is not None:
                yield Finished(done, again=True)
                continue
            event = result(self, run, item, i, images[i])
            if isinstance(event, Finished) and self.out is not None:
                event.inversion.save(self.out / item.name)
            yield event
            if run.start.deltas is not None and interrupted():
                raise KeyboardInterrupt
