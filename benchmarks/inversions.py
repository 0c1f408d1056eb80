"""What the quality benchmarks share: inverting fresh portraits with a recipe, a few at a time, and measuring the
results.

Finished groups of images are kept in `work/benchmarks` under a name that depends on all that decides them: a benchmark
that was stopped goes on where it was, and two benchmarks that ask for the same thing share it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentopt.checkpoints.networks import load_generator
from latentopt.commands.progress import Progress
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.devices import choose_device
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.files.versions import package_version
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.inverting.batch import Batch
from latentopt.judge.network import Judge, load_judge
from latentopt.perceptual.network import weights_path
from latentopt.pictures.images import to_uint8
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM, PNorm
from latentopt.statistics.streams import image_seed
from latentopt.terms.perceptual import Perceptual
from latentopt.types import GeneratorInputs, View

CACHE = Path("work/benchmarks")
CURVE_POINTS = 101
MEASURES = ("psnr", "ssim", "rmse", "perceptual", "judge", "identity", "radius", "seconds")


@dataclass(frozen=True)
class Method:
    """A recipe under the name that it has in the table."""

    name: str
    recipe: Recipe


@dataclass
class Result:
    """One method on all images: images [N,3,H,W] in [-1,1]; values [N] by measure; curves [N,T] over the steps."""

    images: list[Tensor] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, images: Tensor, record: dict) -> None:
        self.images += list(images)
        for own, more in ((self.values, record["values"]), (self.curves, record["curves"])):
            for name, rows in more.items():
                own.setdefault(name, []).extend(rows)

    def median(self, name: str) -> float:
        return torch.tensor(self.values[name]).quantile(0.5).item()

    def mean(self, name: str) -> float:
        return torch.tensor(self.values[name]).mean().item()


@dataclass
class Bench:
    """n fresh portraits, the generator that is to draw them, and those who judge."""

    network: str
    n: int
    batch: int = 8
    device: str = "auto"
    dtype: str = "float32"  # of all but the generator's first block

    @cached_property
    def generator(self) -> StyleGAN2:
        generator = load_generator(self.network, device=choose_device(self.device))
        if self.dtype != "float32":
            generator.set_precision(getattr(torch, self.dtype)).set_memory_format(torch.channels_last)
        return generator

    @cached_property
    def targets(self) -> Tensor:
        return portraits(TEST_SEEDS[: self.n], self.generator.resolution)[0].to(self.generator.device)  # [N,3,H,W]

    @cached_property
    def judge(self) -> Judge:
        return load_judge("portraits").to(self.generator.device)

    @cached_property
    def pnorm(self) -> PNorm:
        return given_or_found(PNORM, self.generator)[0]

    @cached_property
    def context(self) -> list[object]:
        """All that decides a result beside the recipe and the images."""
        nets = [hashlib.sha256(weights_path("portraits", kind).read_bytes()).hexdigest() for kind in KINDS]
        statistics = [self.pnorm.n, self.pnorm.seed, self.pnorm.fingerprint]
        dtype = [] if self.dtype == "float32" else [self.dtype]
        return [
            self.generator.fingerprint,
            self.generator.device.type,
            statistics,
            nets,
            package_version("latentopt"),
            *dtype,
        ]

    @property
    def groups(self) -> list[range]:
        """The portraits that are worked on together."""
        return [range(start, min(start + self.batch, self.n)) for start in range(0, self.n, self.batch)]

    def run(self, methods: Sequence[Method]) -> dict[str, Result]:
        """Every method on every image, with progress in steps of one group of images."""
        jobs = [(method, group) for method in methods for group in self.groups]
        left = [job for job in jobs if not self._path(*job).is_file()]
        with Progress(sum(map(_length, left)), "inverting", unit="step") as progress:
            for method, group in left:
                self._work(method, group, progress)
        results = {method.name: Result() for method in methods}
        for method, group in jobs:
            tensors, metadata = load_tensors(self._path(method, group))
            results[method.name].add(tensors["images"].float() / 127.5 - 1, json.loads(metadata["record"]))
        return results

    def _path(self, method: Method, group: range) -> Path:
        parts = json.dumps([method.recipe.digest, group.start, group.stop, *self.context])
        return CACHE / f"{hashlib.sha256(parts.encode()).hexdigest()[:20]}.safetensors"

    def _work(self, method: Method, group: range, progress: Progress) -> None:
        target = self.targets[group.start : group.stop]
        keys = tuple(str(TEST_SEEDS[i]) for i in group)
        run = Batch(self.generator, method.recipe, target, keys, tuple(image_seed(0, key) for key in keys))
        for _ in run.steps():
            progress.advance(1, method=method.name, images=f"{group.start}-{group.stop - 1}")
        images = run.images()
        record = {"values": self._values(run, images, target), "curves": _curves(run)}
        pixels = torch.from_numpy(to_uint8(images)).movedim(-1, 1)
        save_tensors(self._path(method, group), {"images": pixels}, {"record": json.dumps(record)})

    @torch.no_grad()
    def _values(self, run: Batch, images: Tensor, target: Tensor) -> dict[str, list[float]]:
        inputs = GeneratorInputs(run.inputs.ws)
        perceptual = Perceptual(self.generator, target)(View(images, target, inputs, {}, 1.0, None))
        a, b = (normalize(self.judge.features(x.clamp(-1, 1)), dim=1) for x in (images, target))
        identity = (self.judge.embed(images.clamp(-1, 1)) * self.judge.embed(target)).sum(dim=1)
        radius = self.pnorm.whiten(run.inputs.ws.double().cpu()).square().mean(dim=(1, 2)).sqrt()
        figures = metrics(images, target)
        values = {
            "psnr": figures["psnr"],
            "ssim": figures["ssim"],
            "rmse": figures["mse"].sqrt(),
            "perceptual": perceptual,
            "judge": (a - b).square().sum(dim=1),
            "identity": identity,
            "radius": radius,
        }
        seconds = [sum(entry["seconds"] for entry in history) for history in run.history]
        return {name: value.tolist() for name, value in values.items()} | {"seconds": seconds}


KINDS = ("perceptual", "judge")


def with_measures(recipe: Recipe, steps: int | None) -> Recipe:
    """The recipe with `steps` in every stage, and both terms measured (weight 0 where it does not ask for them)."""

    def adapted(terms: tuple[dict, ...]) -> tuple[dict, ...]:
        missing = {"perceptual", "l2"} - {term["name"] for term in terms}
        moves = {"moves": terms[0]["moves"]} if "moves" in terms[0] else {}  # no way back of its own
        return (*terms, *({"name": name, "weight": 0.0, **moves} for name in sorted(missing)))

    stages = tuple(replace(s, steps=steps or s.steps, terms=adapted(s.terms)) for s in recipe.stages)
    return replace(recipe, stages=stages)


def _length(job: tuple[Method, range]) -> int:
    return sum(stage.steps + 1 for stage in job[0].recipe.stages)


def _curves(run: Batch) -> dict[str, list[list[float]]]:
    """PSNR and perceptual distance of the best point so far at CURVE_POINTS places of the last stage, [B,T]."""
    curves: dict[str, list[list[float]]] = {"psnr": [], "perceptual": []}
    for history in run.history:
        best, reached = history[0], []
        for entry in history:
            best = min(best, entry, key=lambda e: e["loss"])
            reached.append(best)
        places = [round(i * (len(reached) - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)]
        curves["psnr"].append([10 * math.log10(4 / max(reached[i]["l2"], 1e-10)) for i in places])
        curves["perceptual"].append([reached[i]["perceptual"] for i in places])
    return curves
