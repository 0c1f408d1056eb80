"""How fast is every recipe, and how many passes does it take to the quality of pivotal tuning's published schedule?

    python benchmarks/speed_recipes.py
    python benchmarks/speed_recipes.py --recipes pti,fast,fast-tune --batches 1,8 --images 2
    python benchmarks/speed_recipes.py --device cuda --dtype bfloat16 --batches 1,8,32

A pass is one measurement of one image: forward, backward, update. Images a second are those of the whole recipe, with
all its steps, as a few steps of every stage tell; a stage that stops early, as pti's does, is counted to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click
import torch
from speed import Machine, convolution_peak, timed
from tables import machine_name, markdown_table, provenance, write_report
from torch.utils.flop_counter import FlopCounterMode

from latentopt.commands.progress import Progress
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.devices import choose_device
from latentopt.errors import LatentoptError
from latentopt.inverting.batch import Batch
from latentopt.recipe.recipe import Recipe

PUBLISHED = "pti"  # 450 steps for the pivot, 350 for the weights
WARM_UP = 2


@dataclass(frozen=True)
class Speed:
    """Of a recipe at a batch size: seconds and floating-point operations of the whole, for the batch."""

    batch: int
    seconds: float
    flops: float


class Whole:
    """A tracker of modules that knows of none: all is counted as one."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def batch_of(place: Machine, recipe: Recipe, size: int, dtype: torch.dtype) -> Batch:
    """The first `size` test portraits on their way through the recipe."""
    generator = place.generator().set_precision(dtype)
    if dtype != torch.float32:
        generator.set_memory_format(torch.channels_last)
    recipe = replace(recipe, stages=tuple(replace(stage, batch=size) for stage in recipe.stages))
    keys = tuple(str(i) for i in range(size))
    target = portraits(TEST_SEEDS[:size], generator.resolution)[0].to(place.device)
    return Batch(generator, recipe, target, keys, tuple(range(size)))


def speed_of(place: Machine, recipe: Recipe, size: int, dtype: torch.dtype, steps: int) -> Speed:
    """From `steps` timed steps of every stage, times the stage's own number."""
    if any(stage.refine is not None for stage in recipe.stages):
        raise LatentoptError("it ends with a refiner: see refiners.md")
    short = tuple(replace(stage, steps=WARM_UP + steps + 1, stop=None) for stage in recipe.stages)
    running = batch_of(place, replace(recipe, stages=short), size, dtype).steps()
    seconds = flops = 0.0
    for stage in recipe.stages:
        for _ in range(WARM_UP):
            next(running)
        one = timed(place, lambda: next(running), steps)
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Whole()  # its own one refuses variables that go into a module as they are
        with counter:
            next(running)
        next(running)  # the closing measurement
        seconds += one * (stage.steps + 1)
        flops += counter.get_total_flops() * (stage.steps + 1)
    return Speed(size, seconds, flops)


def distances(place: Machine, recipe: Recipe, images: int, dtype: torch.dtype) -> list[list[float]]:
    """Of each image, the least perceptual distance after each pass; a stage's first pass measures its start anew."""
    unstopped = replace(recipe, stages=tuple(replace(stage, stop=None) for stage in recipe.stages))
    run = batch_of(place, unstopped, images, dtype)
    for _ in run.steps():
        pass
    return [[entry.get("perceptual", entry["loss"]) for entry in history] for history in run.history]


def passes_to(curves: list[list[float]], bounds: list[float]) -> str:
    """The median number of passes until an image is within its bound, and how many images get there."""
    reached = [
        next((i + 1 for i, value in enumerate(curve) if value <= bound), None)
        for curve, bound in zip(curves, bounds, strict=True)
    ]
    there = [count for count in reached if count is not None]
    if 2 * len(there) <= len(reached):
        return f"- ({len(there)} of {len(reached)})"
    return f"{median(count or float('inf') for count in reached):g} ({len(there)} of {len(reached)})"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--recipes", default="", help="Names, joined by commas; all by default.")
@click.option("--batches", default="1,8,32", show_default=True, help="Batch sizes.")
@click.option("--steps", default=4, show_default=True, type=click.IntRange(min=1), help="Timed steps of a stage.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(min=0), help="For the passes; 0: none.")
@click.option("--threads", type=click.IntRange(min=1), help="On the CPU; torch's own choice if not given.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str,
    device: str,
    dtype: str,
    recipes: str,
    batches: str,
    steps: int,
    images: int,
    threads: int | None,
    out: Path,
) -> None:
    """Time every recipe, and count its passes to the quality of the published schedule."""
    if threads:
        torch.set_num_threads(threads)
    place, kind = Machine(choose_device(device), network), getattr(torch, dtype)
    names = [name for name in recipes.split(",") if name] or sorted(
        path.stem for path in Path("recipes").glob("*.toml")
    )
    sizes = [int(size) for size in batches.split(",")]
    peak = convolution_peak(place, kind)
    pivot, tuned = [], []
    if images:
        one_by_one = distances(place, Recipe.load(PUBLISHED), images, torch.float32)
        first = Recipe.load(PUBLISHED).stages[0].steps + 1
        pivot, tuned = [min(curve[:first]) for curve in one_by_one], [min(curve) for curve in one_by_one]
    rows = []
    with Progress(len(names) * len(sizes), "recipes", unit="case") as progress:
        for name in names:
            recipe = Recipe.load(name)
            row: list[object] = [name, sum(stage.steps + 1 for stage in recipe.stages)]
            try:
                work = None  # of an image: torch counts the gradients of grouped convolutions once a group too often
                for size in sizes:
                    speed = speed_of(place, recipe, size, kind, steps)
                    work = speed.flops / size if work is None else work
                    share = size * work / speed.seconds / peak
                    row.append(f"{size / speed.seconds:.3g} ({100 * share:.0f} %)")
                    progress.advance(1, recipe=name)
                if images:
                    curves = distances(place, recipe, images, kind)
                    row += [passes_to(curves, pivot), passes_to(curves, tuned)]
            except LatentoptError as error:
                row = [name, row[1], *[f"not run: {error}"[:60]], *[None] * (len(sizes) + 1)]
            rows.append(row[: 2 + len(sizes) + 2 * bool(images)])
    columns = ["recipe", "passes", *(f"images/s, batch {size}" for size in sizes)]
    columns += ["to the pivot's quality", "to the tuned one's"] if images else []
    text = markdown_table(columns, rows) + f"\n\nConvolution peak, measured here: {peak / 1e9:.0f} GFLOP/s."
    facts = provenance(place.device, "targets TEST_SEEDS", dtype=dtype, steps=steps, images=images)
    path = out / f"speed-recipes-{machine_name(place.device)}-{dtype}.md"
    write_report(path, "Speed of the recipes", text, "", MEANING, facts)
    click.echo(f"{text}\nwritten to {path}")


MEANING = (
    "Images a second of the whole recipe, with the share of the convolution peak that its convolutions and matrix "
    "products come to; starts, figures and files are left out. Shares at larger batches go by the operations of one "
    "image. The last two columns: the median over the images of the passes until the perceptual distance is what the "
    "published schedule of pivotal tuning ends with in float32, after 450 steps for the pivot and after 350 more for "
    "the weights; in brackets the images that get there."
)


if __name__ == "__main__":
    main()
