"""Tuning strategies on fresh portraits and out-of-domain pictures: run from one pivot an image, measured, kept.

Each group of images goes through all strategies before the next one, so that strategies with the same latent share the
untouched generator's pictures. Finished groups are kept as in `inversions.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from inversions import CACHE, KINDS
from torch import Tensor
from tuning_edits import edits_of
from tuning_measures import Corruptions, distortion, pictures_of, variables_of
from tuning_strategies import BASE, WRANGAN, Strategy

from latentopt.checkpoints.networks import load_generator
from latentopt.commands.progress import Progress
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.devices import choose_device
from latentopt.errors import CheckpointError, LatentoptError
from latentopt.evaluation.corruption import extractor_name
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.files.versions import package_version
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.inverting.batch import Batch
from latentopt.judge.network import Judge, load_judge
from latentopt.perceptual.network import weights_path
from latentopt.pictures.images import read_image, to_uint8
from latentopt.recipe.files import recipe_files
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.at_hand import first_at_hand
from latentopt.statistics.sigma import SIGMA, Sigma
from latentopt.statistics.sigma_fit import fit_sigma
from latentopt.statistics.streams import image_seed
from latentopt.types import GeneratorInputs

OUTSIDE = ("out-cat", "out-flower", "out-house", "out-temple")  # bundled samples that are no portraits


@dataclass
class Result:
    """One strategy on all images: pictures [N,3,H,W] and [N,4,3,H,W] in [-1,1] by name, values [N] by measure."""

    pictures: dict[str, list[Tensor]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, pictures: dict[str, Tensor], values: dict[str, list[float]]) -> None:
        for name, images in pictures.items():
            self.pictures.setdefault(name, []).extend(images.float() / 127.5 - 1)
        for name, rows in values.items():
            self.values.setdefault(name, []).extend(rows)

    def mean(self, name: str, rows: slice = slice(None)) -> float | None:
        values = self.values.get(name, [])[rows]
        return sum(values) / len(values) if values else None


@dataclass
class Bench:
    """`images` fresh portraits and the out-of-domain samples, the networks that are tuned to them, and those
    who judge.
    """

    base: str
    wrangan: str | None
    images: int
    outside: bool = True
    batch: int = 8
    device: str = "cpu"
    shifted: int = 1000  # pictures that corruption is measured on
    steps: int | None = None
    backwards: bool = False  # last runs first

    @cached_property
    def networks(self) -> dict[str, StyleGAN2]:
        device = choose_device(self.device)
        names = {BASE: self.base} | ({WRANGAN: self.wrangan} if self.wrangan else {})
        return {name: load_generator(source, device=device) for name, source in names.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return (*map(str, TEST_SEEDS[: self.images]), *(OUTSIDE if self.outside else ()))

    @cached_property
    def targets(self) -> Tensor:
        """[N,3,H,W], the portraits first."""
        base = self.networks[BASE]
        drawn = portraits(TEST_SEEDS[: self.images], base.resolution)[0]
        folder = Path(str(files("latentopt.bundled") / "samples"))
        read = [read_image(folder / f"{name}.png", base.resolution).image[None] for name in self.names[self.images :]]
        return torch.cat([drawn, *read]).to(base.device)

    @cached_property
    def judge(self) -> Judge:
        return load_judge("portraits").to(self.networks[BASE].device)

    @cached_property
    def corruptions(self) -> Corruptions:
        return Corruptions(self.judge, self.shifted, keep=3 * self.batch)

    @property
    def extractor(self) -> str:
        return extractor_name(self.judge, self.networks[BASE])

    @property
    def groups(self) -> list[range]:
        """Rows that are worked on together; portraits and others apart."""
        ends = [self.images, len(self.names)]
        starts = [0, self.images]
        return [
            range(i, min(i + self.batch, end))
            for start, end in zip(starts, ends, strict=True)
            for i in range(start, end, self.batch)
        ]

    @cached_property
    def sigma(self) -> dict[str, Path]:
        """The sigma files: `estimated` for the base, `learned` beside the WRanGAN."""
        found = {"estimated": self._estimated()}
        if self.wrangan:
            learned = first_at_hand(SIGMA, self.networks[WRANGAN])
            if learned is None or learned[0].origin != "learned":
                raise CheckpointError(f"{self.wrangan}: there is no learned sigma beside this network")
            found["learned"] = learned[1]
        return found

    def _estimated(self) -> Path:
        base = self.networks[BASE]
        path = CACHE / f"{base.fingerprint}-{_digest([package_version('latentopt')])[:8]}.sigma.safetensors"
        if not path.is_file():
            fit_sigma(base).save(path)
        return path

    def load_sigma(self, origin: str) -> Sigma:
        return Sigma.load(self.sigma[origin])

    def run(self, strategies: Sequence[Strategy]) -> dict[str, Result]:
        """Every strategy on every image. What another process has done in the meantime is not done again."""
        jobs = [(strategy, group) for group in self.groups for strategy in strategies]
        left = [job for job in jobs if not self._path(*job).is_file()]
        left = left[::-1] if self.backwards else left
        total = sum(len(group) * (_steps(strategy) + self._drawn(strategy)) for strategy, group in left)
        with Progress(total, "tuning", unit="picture") as progress:
            for strategy, group in left:
                if not self._path(strategy, group).is_file():
                    self._work(strategy, group, progress)
        results = {strategy.name: Result() for strategy in strategies}
        for strategy, group in jobs:
            tensors, metadata = load_tensors(self._path(strategy, group))
            results[strategy.name].add(tensors, json.loads(metadata["values"]))
        return results

    @cached_property
    def context(self) -> list[object]:
        nets = [hashlib.sha256(weights_path("portraits", kind).read_bytes()).hexdigest() for kind in KINDS]
        return [nets, str(choose_device(self.device)), package_version("latentopt")]

    def _key(self, network: str, recipe: Recipe | None, group: range) -> list[object]:
        names = [self.names[i] for i in group]
        read = [] if recipe is None else sorted(recipe_files(recipe, self.networks[network]).values())
        digest = None if recipe is None else recipe.digest
        return [self.networks[network].fingerprint, names, digest, read, self.pivoting.digest, *self.context]

    def _path(self, strategy: Strategy, group: range) -> Path:
        key = [self._key(strategy.network, strategy.recipe, group), self.shifted * strategy.corruption]
        return CACHE / f"{_digest(key)}.safetensors"

    def _drawn(self, strategy: Strategy) -> int:
        return self.shifted * strategy.corruption * (strategy.recipe is not None)

    @cached_property
    def pivoting(self) -> Recipe:
        """How pivots are found: the inversion in W of the PTI recipe."""
        recipe = Recipe.load("pti").split()[0]
        stages = tuple(replace(stage, steps=self.steps or stage.steps) for stage in recipe.stages)
        return replace(recipe, stages=stages)

    def pivot(self, network: str, group: range) -> tuple[Tensor, Tensor, list[float]]:
        """The pivots ws [b,L,C], their edits [b,4,C], and seconds an image; found once for all strategies."""
        path = CACHE / f"{_digest(['pivot', self._key(network, None, group)])}.safetensors"
        generator = self.networks[network]
        if not path.is_file():
            run = self._start(generator, self.pivoting, group, None)
            with Progress(sum(_stage_steps(self.pivoting)), "pivots", unit="step") as progress:
                for _ in run.steps():
                    progress.advance(1, images=_span(group))
            _check(run)
            ws = run.inputs.ws.contiguous()
            tensors = {"ws": ws, "edits": torch.stack([edits_of(generator, one) for one in ws.split(1)])}
            save_tensors(path, tensors, {"seconds": json.dumps(_seconds(run))})
        tensors, metadata = load_tensors(path)
        ws, edits = (tensors[name].to(generator.device, copy=True) for name in ("ws", "edits"))
        return ws, edits, json.loads(metadata["seconds"])

    def _start(self, generator: StyleGAN2, recipe: Recipe, group: range, start: GeneratorInputs | None) -> Batch:
        keys = tuple(self.names[i] for i in group)
        seeds = tuple(image_seed(0, key) for key in keys)
        return Batch(generator, recipe, self.targets[group.start : group.stop], keys, seeds, inputs=start)

    def _work(self, strategy: Strategy, group: range, progress: Progress) -> None:
        generator = self.networks[strategy.network]
        ws, edits, pivot_seconds = self.pivot(strategy.network, group)
        inputs, extra = GeneratorInputs(ws), {"seconds": [0.0] * len(group)}
        if strategy.recipe is not None:
            run = self._start(generator, strategy.recipe, group, inputs)
            for _ in run.steps():
                progress.advance(len(group), strategy=strategy.name, images=_span(group))
            _check(run)
            inputs = run.inputs.detach()
            extra = {"seconds": _seconds(run), **variables_of(run)}
        extra["pivot seconds"] = pivot_seconds
        target = self.targets[group.start : group.stop]
        pictures = pictures_of(generator, inputs, edits)
        values = distortion(generator, self.judge, pictures["image"], target)
        if self._drawn(strategy):
            values |= self.corruptions(generator, inputs, progress.advance)
        elif strategy.corruption:
            values |= {name: [0.0] * len(group) for name in ("frechet", "kernel")}
        levels = {name: _levels(images) for name, images in pictures.items()}
        save_tensors(self._path(strategy, group), levels, {"values": json.dumps(values | extra)})


def _levels(images: Tensor) -> Tensor:
    return torch.from_numpy(to_uint8(images)).movedim(-1, -3).contiguous()


def _check(run: Batch) -> None:
    failed = [f"{key}: {text}" for key, text in zip(run.keys, run.status, strict=True) if text.startswith("failed")]
    if failed:
        raise LatentoptError("; ".join(failed))


def _seconds(run: Batch) -> list[float]:
    return [sum(entry["seconds"] for entry in history) for history in run.history]


def _stage_steps(recipe: Recipe) -> list[int]:
    return [stage.steps + 1 for stage in recipe.stages]


def _steps(strategy: Strategy) -> int:
    return 0 if strategy.recipe is None else sum(_stage_steps(strategy.recipe))


def _span(group: range) -> str:
    return f"{group.start}-{group.stop - 1}"


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
