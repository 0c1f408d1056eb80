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

from latentopt.distortion import metrics
from latentopt.errors import CheckpointError, ImageError, StatisticsError
from latentopt.inversion import Inversion, is_complete
from latentopt.items import Item, Unread
from latentopt.loop import Step
from latentopt.manifest import manifest, run_key
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
        """The P-norm statistics that the recipe names or the generator has, and their file; None where there are none."""
        named = self.recipe.statistics_file
        try:
            if named is not None:
                return PNorm.load(Path(named), self.generator), Path(named)
            return find_stats(self.generator)
        except StatisticsError:
            return None

    @cached_property
    def files(self) -> dict[str, str]:
        """The files that the recipe reads beside the generator (statistics, a saved start), with their hashes."""
        paths = [Path(name) for name in self.recipe.files]
        if self.recipe.needs_statistics:
            with contextlib.suppress(StatisticsError):
                paths.append(find_stats(self.generator)[1])
        paths = [path / "inputs.safetensors" if path.is_dir() else path for path in paths]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in paths if p.is_file()}

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(self.generator, "precision", torch.float32)

    def run_key(self, item: Item) -> str:
        """Changes with whatever decides the result: a result with another key is stale and made again."""
        options = dict(self.options) | {"files": sorted(self.files.values()), "dtype": str(self._dtype)}
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
            target, mask = self._tensors(batch)
            try:
                run = Run.load(path, self.generator, self.recipe, target, mask)
            except CheckpointError:  # damaged: its images wait for their turn again
                path.unlink(missing_ok=True)
                continue
            for item in batch:
                del left[item.name]
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
            dtype=self._dtype,
            seconds={"optimisation": sum(entry["seconds"] for entry in history)},
            steps=max(len(history) - 1, 0),
            stop_reason=run.status[i],
            metrics=values,
            statistics=self.files,
            options=dict(self.options),
            networks=run.networks,
            noise_mode=self.recipe.stages[-1].noise_mode,
        )
        inputs = run.start.index([i]).to("cpu")
        return Inversion(item.name, item.target.image, image.cpu(), inputs, self.recipe.dump(), history, record)
