"""Inversion of many images: batches through a recipe, results as they finish, resumable at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentopt.devices import Profile
from latentopt.errors import StatisticsError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.inverting.batch import Batch
from latentopt.inverting.events import Event, Finished, Progressed
from latentopt.inverting.items import Item, Unread, in_batches
from latentopt.inverting.keeping import Keeping
from latentopt.inverting.memory import fit_memory
from latentopt.inverting.outcome import Change, Circumstances, Figures, outcome
from latentopt.inverting.resuming import RESUME_FOLDER, interrupted_batches, remove_saved, resume_path, set_aside
from latentopt.inverting.saved_state import DamagedState
from latentopt.protocols import Generator, Operator
from latentopt.recipe.files import recipe_paths
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.at_hand import first_at_hand, given_or_found
from latentopt.statistics.pnorm import PNORM, PNorm
from latentopt.statistics.sigma import Sigma
from latentopt.statistics.streams import image_seed
from latentopt.types import GeneratorInputs
from latentopt.watching.interruption import Interrupted, StopNow, holding, never, released


@dataclass(frozen=True)
class Inverter:
    """A generator and a recipe, ready to invert items.

    `out` is the folder for results (none: nothing is written); `options` is whatever else decides a result (such as
    how pictures were fitted): part of the key that tells stale results. `change` measures what tuning did to the rest
    of the generator (`latentopt.evaluation.corruption.change_by`); without it, that is left out. `operator` takes the
    place of those of the recipe's stages; `figures` measures results, by their likeness to the target without it.
    """

    generator: Generator
    recipe: Recipe
    seed: int = 0
    out: Path | None = None
    options: tuple[tuple[str, object], ...] = ()
    save_every: float = 10.0
    change: Change | None = None
    operator: Operator | None = None
    figures: Figures | None = None
    profile: Profile = field(default_factory=lambda: Profile(on=False))
    _fitting: dict[int, int] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def keeping(self) -> Keeping:
        """The results of earlier runs."""
        decides = dict(self.options) | {"dtype": str(self.generator.precision)}
        return Keeping(self.generator, self.recipe, self.seed, self.out, decides)

    @property
    def files(self) -> dict[str, str]:
        """The files that the recipe reads beside the generator, with their hashes."""
        return self.keeping.files

    def run_key(self, item: Item) -> str:
        """Changes with whatever decides the result: a result with another key is stale and made again."""
        return self.keeping.key(item)

    @property
    def size(self) -> int:
        """Images of a batch."""
        return max(stage.batch for stage in self.recipe.stages)

    @property
    def together(self) -> bool:
        """Whether all images are one batch."""
        return self.recipe.shares

    def invert(
        self, items: Sequence[Item | Unread], interrupted: Interrupted = never, place: str = ""
    ) -> Iterator[Event]:
        """Events as they happen. When `interrupted` says so after a step, the state is saved and KeyboardInterrupt
        raised.

        What an earlier run was in the middle of comes first and goes on where it was; then the rest in order, each
        batch as large as the recipe says. What an earlier run finished is not done again, unless its own batch was
        left half saved. Images that share variables are one batch. place: the folder, in that of saved states, of these
        items alone, where several processes work in one output folder.
        """
        left = {item.name: item for item in items}
        if self.recipe.shares:
            group = replace(self, options=(*self.options, ("group", sorted(left))))
            yield from group._invert(left, len(left), interrupted, place)
        else:
            yield from self._invert(left, self.size, interrupted, place)

    def _invert(
        self, left: dict[str, Item | Unread], size: int, interrupted: Interrupted, place: str
    ) -> Iterator[Event]:
        folder = None if self.out is None else self.out / RESUME_FOLDER / place
        for path, items in interrupted_batches(left, folder, self.keeping):
            if isinstance(items, DamagedState):
                yield set_aside(path, items)
                continue
            try:
                known = (*self._tensors(items), self._measured(items), self.operator)
                batch = Batch.load(path, self.generator, self.recipe, *known)
            except DamagedState as error:  # its images wait for their turn again
                yield set_aside(path, error)
                continue
            for item in items:
                del left[item.name]
            batch.profile = self.profile
            yield from self._work(batch, items, interrupted, folder, resumed=True)
        if self.recipe.shares:
            yield from self._invert_together(list(left.values()), interrupted, folder)
            return
        for ready in self.profile.each("files", in_batches(left.values(), size, self.keeping.done)):
            if isinstance(ready, list):
                yield from self._work(self._new_batch(ready), ready, interrupted, folder)
            else:
                yield ready

    def _invert_together(
        self, waiting: Sequence[Item | Unread], interrupted: Interrupted, folder: Path | None
    ) -> Iterator[Event]:
        """Images that share variables: all of them anew, unless all are done."""
        items: list[Item] = []
        for ready in in_batches(waiting, len(waiting), lambda item: None):
            if isinstance(ready, list):
                items = ready
            else:
                yield ready
        finished = [done for item in items if (done := self.keeping.done(item)) is not None]
        if items and len(finished) == len(items):
            yield from (Finished(done, again=True) for done in finished)
        elif items:
            yield from self._work(self._new_batch(items), items, interrupted, folder)

    def _new_batch(self, items: Sequence[Item]) -> Batch:
        target, mask = self._tensors(items)
        names = tuple(item.name for item in items)
        seeds = tuple(image_seed(self.seed, n) for n in names)
        known = (mask, self._measured(items), self.operator)
        batch = Batch(self.generator, self.recipe, target, names, seeds, *known, chunk=self._at_once(len(names)))
        batch.profile = self.profile
        starts = [item.start.inputs for item in items if item.start is not None]
        if self.recipe.needs_start and len(starts) == len(items):
            try:
                batch.inputs = GeneratorInputs.cat(starts).to(self.generator.device)
            except ValueError as error:
                raise UsageError(f"{error}; tune the results of one recipe at a time") from error
        return batch

    def _tensors(self, items: Sequence[Item]) -> tuple[Tensor, Tensor | None]:
        device = self.generator.device
        target = torch.stack([item.target.image for item in items]).to(device)
        masks = [item.target.mask for item in items]
        if all(mask is None for mask in masks):
            return target, None
        whole = torch.ones_like(target[0, :1])
        return target, torch.stack([whole if mask is None else mask.to(device) for mask in masks])

    def _measured(self, items: Sequence[Item]) -> Tensor | None:
        """What was measured of images that are not known themselves, [B,...]."""
        found = [item.target.measured for item in items if item.target.measured is not None]
        return torch.stack(found).to(self.generator.device) if found else None

    def _work(
        self,
        batch: Batch,
        items: list[Item],
        interrupted: Interrupted,
        folder: Path | None,
        resumed: bool = False,
    ) -> Iterator[Event]:
        path = None if folder is None else resume_path(folder, items, self.keeping)
        try:
            with holding(interrupted):
                yield from self._steps(batch, path, interrupted)
                if path is not None and (len(items) > 1 or batch.result.deltas is not None):
                    self._save(batch, path)  # killed between two results, the rest are those of the same batch
                yield from self._results(batch, items, interrupted, resumed)
        except StopNow:
            raise
        except KeyboardInterrupt:  # between steps, or where nothing changes the batch
            if path is not None:
                self._save(batch, path)
            raise
        if path is not None:
            remove_saved(path)

    def _steps(self, batch: Batch, path: Path | None, interrupted: Interrupted) -> Iterator[Event]:
        """The steps of all stages; the state is saved at `path` every so often."""
        unsaved = 0.0
        for stage, step in batch.steps(interrupted):
            yield Progressed(batch, stage, step)
            unsaved += step.seconds
            if interrupted():
                raise KeyboardInterrupt
            if path is not None and unsaved > self.save_every:
                self._save(batch, path)
                unsaved = 0.0

    def _save(self, batch: Batch, path: Path) -> None:
        with self.profile.part("files"), clear_write_errors(path):
            batch.save(path)

    def _results(self, batch: Batch, items: list[Item], interrupted: Interrupted, resumed: bool) -> Iterator[Event]:
        """What has become of each image; drawing and measuring take a while, and one may stop meanwhile. What was saved
        before the batch was `resumed` is not done again.
        """
        with released(interrupted):
            images = batch.images()  # [B,3,H,W]
        tuned = batch.result.deltas is not None
        for i, item in enumerate(items):
            done = self.keeping.done(item) if resumed else None
            if done is not None:
                yield Finished(done, again=True)
                continue
            with self.profile.part("figures of the result"), released(interrupted):
                event = outcome(batch, item, i, images[i], self.run_key(item), self._circumstances)
            if isinstance(event, Finished) and self.out is not None:
                with self.profile.part("files"):
                    event.inversion.save(self.out / item.name)
            yield event
            if tuned and interrupted():
                raise KeyboardInterrupt

    def _at_once(self, images: int) -> int:
        """How many images of a batch are drawn at once; asked of the system once for a size of batch."""
        if images not in self._fitting:
            self._fitting[images] = fit_memory(self.recipe, self.generator, images)
        return self._fitting[images]

    @cached_property
    def _circumstances(self) -> Circumstances:
        found = recipe_paths(self.recipe, self.generator, "sigma")
        sigma = {"sigma": {"origin": Sigma.load(found[0]).origin, "file": str(found[0])}} if found else {}
        return Circumstances(self.seed, self.files, dict(self.options), self._pnorm, self.change, sigma, self.figures)

    @property
    def _pnorm(self) -> PNorm | None:
        """The statistics that the recipe names, or the generator's own; None where there are none."""
        named = self.recipe.named("p-norm")
        try:
            found = given_or_found(PNORM, self.generator, named) if named else first_at_hand(PNORM, self.generator)
        except StatisticsError:
            return None
        return None if found is None else found[0]
