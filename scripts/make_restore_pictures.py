"""Draw the pictures of docs/restore.md: `python scripts/make_restore_pictures.py docs`.

The bundled sample portraits are degraded, one task a line, and restored by the recipe `robust`. About ten minutes on
one core; `--only` draws one of the two pictures, `--steps` a quick trial.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn.functional import interpolate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import latentopt  # noqa: E402
from latentopt.pictures.channels import in_colour  # noqa: E402
from latentopt.pictures.contact_sheet import contact_sheet  # noqa: E402
from latentopt.pictures.images import read_image  # noqa: E402
from latentopt.protocols import Generator  # noqa: E402
from latentopt.recipe.recipe import Recipe  # noqa: E402

SAMPLES = ROOT / "latentopt" / "bundled" / "samples"
SHOWN = ("portrait-01", "portrait-07", "portrait-11")
TASKS = {
    "super-resolution": "down:8",
    "compression": "jpeg:8",
    "a hole": "mask",
    "noise": "noise:gaussian:40",
    "blur": "blur:3",
    "colours": "gray",
    "MRI-like": "rows:6",
    "small and compressed": "down:2,jpeg:20",
}
AMBIGUOUS = "down:16"
SOLUTIONS = 4


def hole(generator: Generator) -> Tensor:
    """A mask [1,1,H,W] whose middle is hidden."""
    height, width = generator.resolution
    mask = torch.ones(1, 1, height, width)
    mask[..., 2 * height // 5 : 2 * height // 3, width // 4 : 3 * width // 4] = 0
    return mask


def enlarged(picture: Tensor, like: Tensor) -> Tensor:
    """[C,h,w] at the size of another picture, in whole pixels and three colours."""
    return interpolate(in_colour(picture[None]), like.shape[-2:], mode="nearest")[0]


def tasks(generator: Generator, truths: Tensor, recipe: Recipe, path: Path) -> None:
    """A line a task: for each portrait the measurement, what was found, and the truth."""
    lines = []
    for name, operator in TASKS.items():
        mask = hole(generator) if operator == "mask" else None
        found = latentopt.restore(
            generator, truths, operator, recipe, simulate=True, mask=mask, names=list(SHOWN[: len(truths)])
        )
        pairs = zip(found, truths, strict=True)
        lines.append([cell for one, truth in pairs for cell in (enlarged(one.measured, truth), one.image, truth)])
        click.echo(f"{name}: done")
    columns = ["measurement", "restored", "truth"] * len(truths)
    contact_sheet(lines, path, columns=columns, labels=[f"{name}: {op}" for name, op in TASKS.items()])


def solutions(generator: Generator, truths: Tensor, recipe: Recipe, path: Path) -> None:
    """A line a portrait: several answers to one measurement, and where they differ."""
    names = list(SHOWN[: len(truths)])
    found = latentopt.restore(generator, truths, AMBIGUOUS, recipe, simulate=True, solutions=SOLUTIONS, names=names)
    lines = []
    for one, truth in zip(found, truths, strict=True):
        spread = truth if one.spread is None else (8 * one.spread - 1).clamp(max=1)
        pictures = [solution.image for solution in one.solutions]
        lines.append([enlarged(one.measured, truth), *pictures, spread, truth])
    answers = [f"answer {k + 1}" for k in range(SOLUTIONS)]
    contact_sheet(lines, path, columns=["measurement", *answers, "where they differ", "truth"])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--network", default="portraits", show_default=True)
@click.option("--only", type=click.Choice(["tasks", "solutions"]))
@click.option("--steps", type=click.IntRange(min=1), help="Of every stage, for a trial.")
@click.option("--device", default="cpu", show_default=True)
def main(folder: Path, network: str, only: str | None, steps: int | None, device: str) -> None:
    generator = latentopt.load_generator(network, device=torch.device(device))
    read = [read_image(SAMPLES / f"{name}.png", generator.resolution).image for name in SHOWN]
    truths, recipe = torch.stack(read).to(device), Recipe.load("robust").in_every_stage(steps=steps)
    folder.mkdir(parents=True, exist_ok=True)
    if only != "solutions":
        tasks(generator, truths, recipe, folder / "restore.png")
    if only != "tasks":
        solutions(generator, truths, recipe, folder / "restore-solutions.png")


if __name__ == "__main__":
    main()
