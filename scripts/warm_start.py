"""Warm start of the portraits generator: every latent gets its portrait, and the generator learns to draw it.

    python scripts/warm_start.py --start portraits --minutes 60 --outdir train/warm
    python scripts/warm_start.py --family stylegan3-t --minutes 60 --outdir train/warm3
    python scripts/warm_start.py --start train/warm --known --lr 0.0006 --outdir train/warm2

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
from latentopt.devices import choose_device
from latentopt.files.outputs import check_outdir
from latentopt.perceptual.network import load_perceptual_net
from latentopt.training import DRAWN, GENERATOR_FAMILIES
from latentopt.training.building import random_generator
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.training.loop import Training
from latentopt.training.regression import Regression, RegressionStep, RegressionTrainer
from latentopt.training.starts import load_start, start_name
from latentopt.training.streams import stream_with_normals

LOGGED_EVERY = 50  # steps


def warm_start(
    outdir: Path,
    start: str,
    settings: Regression,
    drawn: int,
    cache: Path,
    command: str,
    device: torch.device | str = "cpu",
    family: str = "stylegan2",
) -> Training[RegressionStep]:
    """The training, which leaves a generator and a discriminator in `outdir` as it is iterated.

    Where the settings are `fresh`, the generator is one of `family` with random weights, and the start gives the
    discriminator alone.
    """
    check_outdir(outdir)
    generator, discriminator = load_start(start)
    if settings.fresh:
        generator = random_generator(
            GeneratorTraining(family=family, resolution=generator.resolution[0], seed=settings.seed)
        )
    stream = stream_with_normals(cache, drawn, generator.resolution[0], settings.seed, device)
    trainer = RegressionTrainer(generator.to(device), load_perceptual_net("portraits"), stream, settings)
    card = {"name": "warm start", "data": "portraits", "drawn": drawn, "start": start_name(start)}
    card |= {"command": command, "licence": "Apache-2.0"}

    def leave() -> None:
        seen = {"images_seen": trainer.images_seen, "steps": trainer.step}
        made = {"seed": settings.seed, "settings": asdict(settings)}
        save_generator(trainer.averaged(), outdir / "generator.safetensors", card | seen | made)
        save_discriminator(discriminator, outdir / "discriminator.safetensors", {"start": start_name(start)})

    def logged(record: RegressionStep) -> Mapping[str, object] | None:
        return None if record.step % LOGGED_EVERY else asdict(record)

    return Training(trainer, outdir / "snapshot.pt", leave, log=outdir / "log.jsonl", logged=logged)


def follow_warm_start(training: Training[RegressionStep], minutes: float | None) -> int:
    """Show its progress; the exit code."""
    return follow_training(
        training,
        "warm start",
        lambda record: {"l1": record.l1, "distance": record.distance},
        unit="image",
        per_step=training.trainer.settings.batch,
        minutes=minutes,
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--start", default="portraits", show_default=True, help="A bundled generator, or a folder with both files."
)
@click.option(
    "--family",
    type=click.Choice(GENERATOR_FAMILIES),
    help="Begin with a generator that has random weights; the start gives its discriminator.",
)
@click.option(
    "--drawn", default=DRAWN, show_default=True, help="Portraits to draw and keep; 0 draws new ones at each step."
)
@click.option(
    "--fitted", default=Regression.fitted, show_default=True, help="Samples that the mapping is fitted after."
)
@click.option("--mapping-steps", default=Regression.mapping_steps, show_default=True, help="Steps that fit it.")
@click.option("--known", is_flag=True, help="The start comes from an earlier warm start: it knows its portraits.")
@click.option("--images", default=Regression.images, show_default=True, help="Pictures to learn in all.")
@click.option("--batch", default=Regression.batch, show_default=True)
@click.option("--ema-images", default=Regression.ema_images, show_default=True, help="Half-life of the weights' mean.")
@click.option("--lr", default=Regression.lr, show_default=True)
@click.option(
    "--mapping-rate", default=Regression.mapping_rate, show_default=True, help="The mapping's, in those of --lr."
)
@click.option("--mixing", default=Regression.mixing, show_default=True, help="Share of pictures with two styles.")
@click.option("--seed", default=Regression.seed, show_default=True)
@click.option("--minutes", type=float, help="Stop after this long; the same command goes on.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--outdir", default="train/warm", show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default="train/data", show_default=True, type=click.Path(path_type=Path))
def main(
    start: str,
    family: str | None,
    drawn: int,
    fitted: int,
    mapping_steps: int,
    known: bool,
    images: int,
    batch: int,
    ema_images: float,
    lr: float,
    mapping_rate: float,
    mixing: float,
    seed: int,
    minutes: float | None,
    device: str,
    outdir: Path,
    cache: Path,
) -> None:
    """Learn the portraits that belong to the latents of a generator."""
    settings = Regression(
        images=images, batch=batch, ema_images=ema_images, lr=lr, mapping_rate=mapping_rate, mixing=mixing, seed=seed,
        fitted=fitted, mapping_steps=mapping_steps, known=known, fresh=family is not None,
    )  # fmt: skip
    command = " ".join(["python", "scripts/warm_start.py", *sys.argv[1:]])
    on = choose_device(device)
    training = warm_start(outdir, start, settings, drawn, cache, command, on, family or "stylegan2")
    sys.exit(follow_warm_start(training, minutes))


if __name__ == "__main__":
    main()
