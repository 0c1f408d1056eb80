"""What the encoder benchmarks share: measuring codes on fresh portraits, and following an optimisation from a start.

Times are of the processor, not of the clock: this machine may have other work. They are of one process with the threads
that it was given.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from inversions import CACHE, Bench
from torch import Tensor
from torch.nn.functional import normalize

from latentopt.commands.progress import Progress
from latentopt.data.portraits import TEST_SEEDS
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.inverting.batch import Batch
from latentopt.pictures.images import to_uint8
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics
from latentopt.statistics.streams import image_seed
from latentopt.terms.perceptual import Perceptual
from latentopt.types import GeneratorInputs, View

MEASURES = ("psnr", "l2", "perceptual", "judge", "identity")


@dataclass
class Point:
    """One method after one amount of work, on all images so far: values [N] by measure, processor seconds an image."""

    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def add(self, values: dict[str, list[float]], seconds: float) -> None:
        for name, more in values.items():
            self.values.setdefault(name, []).extend(more)
        self.seconds += [seconds] * len(values["l2"])

    def mean(self, name: str) -> float:
        rows = self.seconds if name == "seconds" else self.values[name]
        return sum(rows) / len(rows)


@torch.no_grad()
def measured(bench: Bench, inputs: GeneratorInputs, target: Tensor) -> tuple[dict[str, list[float]], Tensor]:
    """MEASURES of what `inputs` draw against target [b,3,H,W], on 8-bit pictures, which are returned too [b,3,H,W]."""
    images = bench.generator.synthesis(inputs).float().clamp(-1, 1)
    levels = torch.from_numpy(to_uint8(images)).movedim(-1, 1)
    images = (levels.float() / 127.5 - 1).to(target)
    figures = metrics(images, target)
    a, b = (normalize(bench.judge.features(x), dim=1) for x in (images, target))
    values = {
        "psnr": figures["psnr"],
        "l2": (images - target).square().mean(dim=(1, 2, 3)),
        "perceptual": Perceptual(bench.generator, target)(View(images, target, inputs, {}, 1.0, None)),
        "judge": (a - b).square().sum(dim=1),
        "identity": (bench.judge.embed(images) * bench.judge.embed(target)).sum(dim=1),
    }
    return {name: value.tolist() for name, value in values.items()}, levels


@dataclass
class Found:
    """What a method made of all images: a point for each amount of work (steps), and the last pictures [N] of uint8."""

    points: dict[int, Point] = field(default_factory=dict)
    images: list[Tensor] = field(default_factory=list)


Work = Callable[[Bench, range], tuple[dict[int, tuple[dict[str, list[float]], float]], Tensor]]
"""(bench, group of images) -> ({steps: (values, seconds an image)}, last pictures)."""


def work_through(bench: Bench, name: str, key: Sequence[object], work: Work, from_end: bool = False) -> Found:
    """`work` on all groups of images; finished groups are kept on disk by `key`, and not worked on again.

    from_end: the last groups come first, so that two processes that work on the same thing meet in the middle.
    """
    groups = [range(start, min(start + bench.batch, bench.n)) for start in range(0, bench.n, bench.batch)]
    paths = [_path([key, group.start, group.stop, *bench.context]) for group in groups]
    pairs = list(zip(groups, paths, strict=True))
    with Progress(len(groups), name, unit="group") as progress:
        for group, path in reversed(pairs) if from_end else pairs:
            if not path.is_file():
                points, images = work(bench, group)
                save_tensors(path, {"images": images}, {"points": json.dumps(points)})
            progress.advance(1)
    found = Found()
    for path in paths:
        tensors, metadata = load_tensors(path)
        for steps, (values, seconds) in json.loads(metadata["points"]).items():
            found.points.setdefault(int(steps), Point()).add(values, seconds)
        found.images += list(tensors["images"].float() / 127.5 - 1)
    return found


def _path(parts: list[object]) -> Path:
    return CACHE / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]}.safetensors"


def targets(bench: Bench, group: range) -> Tensor:
    return bench.targets[group.start : group.stop]


def following(recipe: Recipe, places: Sequence[int]) -> Work:
    """Optimise by a recipe of one stage, and measure the best point so far after each number of updates in `places`."""

    def work(bench: Bench, group: range) -> tuple[dict, Tensor]:
        target = targets(bench, group)
        keys = tuple(str(TEST_SEEDS[i]) for i in group)
        run = Batch(bench.generator, recipe, target, keys, tuple(image_seed(0, key) for key in keys))
        points, images, spent, began = {}, target, 0.0, time.process_time()
        for _, record in run.steps():
            spent += time.process_time() - began
            if record.step in places:
                values, images = measured(bench, run.best_so_far(), target)
                points[record.step] = (values, spent / len(target))
            began = time.process_time()
        return points, images

    return work


def encoding(encode: Callable[[Tensor], list[GeneratorInputs]], places: Sequence[int] | None = None) -> Work:
    """Measure each of the codes that `encode` makes of target [b,3,H,W]; the time is shared by its steps evenly."""

    def work(bench: Bench, group: range) -> tuple[dict, Tensor]:
        target = targets(bench, group)
        began = time.process_time()
        codes = encode(target)
        spent = (time.process_time() - began) / len(target) / len(codes)
        points = {}
        for step, inputs in enumerate(codes, start=1):
            values, images = measured(bench, inputs, target)
            points[step] = (values, spent * step)
        return points, images

    return work
