"""Does a batch of 8 images with a delta each give what 8 single runs give, and is it no slower?

    python benchmarks/tuning_batch.py

Both take turns, so that other work on the machine falls on both; the ratio is of processor time.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from tables import markdown_table, provenance, write_report

from latentopt.checkpoints.networks import load_generator
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.devices import choose_device
from latentopt.inverting.batch import Batch
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.streams import image_seed

IMAGES = 8
LAYERS = ("convs:6", "all")


def tuning(layers: str, steps: int) -> Recipe:
    recipe = Recipe.load("weights").split()[1].override(["stages.0.init=mean", f"stages.0.steps={steps}"])
    return recipe.override([f"stages.0.optimize.0.layers={layers}", f"stages.0.batch={IMAGES}"])


@click.command()
@click.option("--steps", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(steps: int, rounds: int, device: str, out: Path) -> None:
    """Tune 8 portraits at once and one by one."""
    generator = load_generator("portraits", device=choose_device(device))
    target = portraits(TEST_SEEDS[:IMAGES], generator.resolution)[0].to(generator.device)

    def work(recipe: Recipe, images: range) -> tuple[torch.Tensor, float]:
        names = tuple(str(i) for i in images)
        run = Batch(generator, recipe, target[list(images)], names, tuple(image_seed(0, name) for name in names))
        started = time.process_time()
        for _ in run.steps():
            pass
        return run.images(), time.process_time() - started

    rows = []
    for layers in LAYERS:
        recipe, ratios = tuning(layers, steps), []
        for _ in range(rounds):
            together, batch = work(recipe, range(IMAGES))
            singles = [work(recipe, range(i, i + 1)) for i in range(IMAGES)]
            ratios.append(batch / sum(seconds for _, seconds in singles))
        apart = (together - torch.cat([image for image, _ in singles])).abs()
        rows.append(
            [layers, sorted(ratios)[rounds // 2], min(ratios), max(ratios), apart.max().item(), apart.mean().item()]
        )
    text = markdown_table(
        ["layers", "batch / singles, time", "least", "most", "largest pixel difference", "mean"], rows
    )
    meaning = "Pixels in [-1,1], after the last step. Below 1 the batch is faster."
    write_report(
        out / "tuning-batch.md", "A batch of 8 deltas", text, meaning, provenance(generator.device, "0", steps=steps)
    )
    click.echo(text)


if __name__ == "__main__":
    main()
