"""Warm start of the portraits generator: the attributes of its pictures are spread as in portraits, redrawn and learnt.

    python scripts/warm_start.py --start portraits --minutes 10 --outdir train/warm

Writes generator.safetensors, and beside it the discriminator of the start, so that `latentopt train generator --start
train/warm` goes on adversarially. The same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
import torch

from latentopt.checkpoints.networks import save_discriminator, save_generator
from latentopt.commands.train_loop import follow_training
from latentopt.data.portraits import TRAIN_SEEDS, cached
from latentopt.files.outputs import check_outdir
from latentopt.perceptual.network import load_perceptual_net
from latentopt.training import DRAWN
from latentopt.training.loop import Training
from latentopt.training.regression import Regression, RegressionStep, RegressionTrainer
from latentopt.training.starts import load_start, start_name

LOGGED_EVERY = 50  # steps


def warm_start(outdir: Path, start: str, settings: Regression, drawn: int, cache: Path) -> Training[RegressionStep]:
    """The training, which leaves a generator and a discriminator in `outdir` as it is iterated."""
    check_outdir(outdir)
    generator, discriminator = load_start(start)
    images, _ = cached(cache, drawn, generator.resolution[0], TRAIN_SEEDS.start)
    real = torch.from_numpy(images[: settings.fitted].copy()).float().div_(127.5).sub_(1)
    trainer = RegressionTrainer(generator, load_perceptual_net("portraits"), real, settings)
    card = {"name": "warm start", "data": "portraits", "drawn": drawn, "start": start_name(start)}
    card |= {"command": " ".join(["python", "scripts/warm_start.py", *sys.argv[1:]]), "licence": "Apache-2.0"}

    def leave() -> None:
        seen = {"images_seen": trainer.images_seen, "steps": trainer.step}
        made = {"seed": settings.seed, "settings": asdict(settings)}
        save_generator(trainer.averaged(), outdir / "generator.safetensors", card | seen | made)
        save_discriminator(discriminator, outdir / "discriminator.safetensors", {"start": start_name(start)})

    def logged(record: RegressionStep) -> Mapping[str, object] | None:
        return None if record.step % LOGGED_EVERY else asdict(record)

    return Training(trainer, outdir / "snapshot.pt", leave, log=outdir / "log.jsonl", logged=logged)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--start", default="portraits", show_default=True, help="A bundled generator, or a folder with both files."
)
@click.option("--drawn", default=DRAWN, show_default=True, help="Portraits to draw and keep; the first give the goal.")
@click.option("--fitted", default=Regression.fitted, show_default=True, help="Pictures that fit the transport.")
@click.option("--images", default=Regression.images, show_default=True, help="Pictures to learn in all.")
@click.option("--lr", default=Regression.lr, show_default=True)
@click.option("--seed", default=Regression.seed, show_default=True)
@click.option("--minutes", type=float, help="Stop after this long; the same command goes on.")
@click.option("--outdir", default="train/warm", show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default="train/data", show_default=True, type=click.Path(path_type=Path))
def main(
    start: str,
    drawn: int,
    fitted: int,
    images: int,
    lr: float,
    seed: int,
    minutes: float | None,
    outdir: Path,
    cache: Path,
) -> None:
    """Learn portraits near the pictures of the generator that is started from."""
    settings = Regression(images=images, lr=lr, seed=seed, fitted=fitted)
    training = warm_start(outdir, start, settings, drawn, cache)
    sys.exit(
        follow_training(
            training,
            "warm start",
            lambda record: {"l1": record.l1, "distance": record.distance},
            unit="image",
            per_step=settings.batch,
            minutes=minutes,
        )
    )


if __name__ == "__main__":
    main()
