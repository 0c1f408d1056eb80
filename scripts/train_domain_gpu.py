"""The portraits generator by one command: warm start, the same at a lower rate, adversarial training.

    python scripts/train_domain_gpu.py --minutes 8 --outdir train/gpu
    python scripts/train_domain_gpu.py --family stylegan3-t --minutes 6 --shares 5 1 4 --outdir train/gpu3
    python scripts/train_domain_gpu.py --device cpu --drawn 60000 --batch 16 --outdir train/cpu

It is made for an accelerator: portraits are drawn on the device as it learns, and none is seen twice. On a CPU, where
drawing takes longer than learning, `--drawn` keeps some.

Three trainings, each in its own folder of `outdir`: `warm` (regression, see scripts/warm_start.py), `settled` (the same
at a lower rate), and `plain` (StyleGAN2, which the bundled generator must end in, or StyleGAN3). The same command goes
on where it stopped. Weights and snapshots are written every minute, in files of at most 16 MB.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from warm_start import follow_warm_start, warm_start

from latentopt.commands.train_loop import follow_adversarial
from latentopt.devices import choose_device
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.training import GENERATOR_FAMILIES
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.training.loop import Training
from latentopt.training.regression import Regression
from latentopt.training.train_generator import SNAPSHOT, train_generator

WRITTEN_EVERY = 60.0  # seconds
SETTLED = 0.2  # of the rate and of the pictures of the first training
EMA_IMAGES, EMA_RAMPUP = 20_000, 0.5
NOISE_STRENGTH = 4e-3  # regression takes it away; this changes pixels by some 0.016 at first
GENERATOR_RATE = 0.2  # in those of the discriminator: it begins where it is good


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--start", default="portraits", show_default=True, help="A bundled generator, or a folder with both files."
)
@click.option(
    "--family",
    type=click.Choice(GENERATOR_FAMILIES),
    default="stylegan2",
    show_default=True,
    help="A StyleGAN3 has random weights at first; the start gives its discriminator.",
)
@click.option(
    "--warm-images", default=1_500_000, show_default=True, help="Portraits to learn by regression; 0 for none."
)
@click.option("--images", default=1_500_000, show_default=True, help="Portraits to show to the discriminator.")
@click.option("--discriminator-first", default=100_000, show_default=True, help="How many of them it sees alone.")
@click.option(
    "--drawn", default=0, show_default=True, help="Portraits to draw and keep; 0 draws new ones at each step."
)
@click.option("--batch", default=128, show_default=True)
@click.option("--warm-lr", default=3e-3, show_default=True)
@click.option("--lr", default=GeneratorTraining.lr, show_default=True, help="The discriminator's.")
@click.option("--r1-gamma", default=GeneratorTraining.r1_gamma, show_default=True)
@click.option("--mapping-steps", default=Regression.mapping_steps, show_default=True)
@click.option(
    "--fitted", default=Regression.fitted, show_default=True, help="Samples that the mapping is fitted after."
)
@click.option("--known", is_flag=True, help="The start comes from an earlier warm start.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Compile the synthesis.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", type=float, help="Stop after this long; the same command goes on.")
@click.option(
    "--shares",
    type=(float, float, float),
    help="Of the minutes, for each training: it ends there, and the next begins.",
)
@click.option("--outdir", default="train/gpu", show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default="train/data", show_default=True, type=click.Path(path_type=Path))
def main(
    start: str,
    family: str,
    warm_images: int,
    images: int,
    discriminator_first: int,
    drawn: int,
    batch: int,
    warm_lr: float,
    lr: float,
    r1_gamma: float,
    mapping_steps: int,
    fitted: int,
    known: bool,
    precision: str,
    compiled: bool,
    device: str,
    seed: int,
    minutes: float | None,
    shares: tuple[float, float, float] | None,
    outdir: Path,
    cache: Path,
) -> None:
    """Warm start, then adversarial training, on one device."""
    torch.set_float32_matmul_precision("high")
    ends, on = None if minutes is None else time.monotonic() + 60 * minutes, choose_device(device)
    command = " ".join(["python", "scripts/train_domain_gpu.py", *sys.argv[1:]])

    def left(trainings: int) -> float | None:
        """Until so many of the trainings have had their share."""
        if ends is None:
            return None
        later = 0.0 if minutes is None or shares is None else minutes * sum(shares[trainings:]) / sum(shares)
        return max((ends - time.monotonic()) / 60 - later, 0.0)

    warm = Regression(
        images=warm_images, batch=batch, lr=warm_lr, mapping_steps=mapping_steps, fitted=fitted, precision=precision,
        ema_images=EMA_IMAGES, known=known, fresh=family != "stylegan2", seed=seed,
    )  # fmt: skip
    settled = replace(
        warm, images=int(SETTLED * warm_images), lr=SETTLED * warm_lr, known=True, fresh=False, seed=seed + 1
    )
    stages = (("warm", warm, "settled"), ("settled", settled, "plain"))
    for i, (name, regression, following) in enumerate(stages if warm_images else (), start=1):
        if not (shares and (outdir / following / SNAPSHOT).exists()):  # what began where this one ended keeps its start
            warming = warm_start(outdir / name, start, regression, drawn, cache, command, on, family)
            ready(warming, warming.trainer.generator, compiled)
            stop_unless_done(warming, follow_warm_start(warming, left(i)), shared=shares is not None)
        start = str(outdir / name)
    adversarial = GeneratorTraining(
        images=images,
        batch=batch,
        lr=lr,
        generator_rate=GENERATOR_RATE,
        r1_gamma=r1_gamma,
        mixing=warm.mixing,
        discriminator_first=discriminator_first,
        noise_from=0,
        noise_strength=NOISE_STRENGTH,
        ema_images=EMA_IMAGES,
        ema_rampup=EMA_RAMPUP,
        precision=precision,
        seed=seed,
        family=family,
    )
    plain = train_generator(
        outdir / "plain",
        adversarial,
        drawn=drawn,
        cache=cache,
        start=start,
        name="portraits",
        command=command,
        device=on,
    )
    ready(plain, plain.trainer.generator, compiled)
    stop_unless_done(plain, follow_adversarial(plain, left(3), quiet=False))


def ready(training: Training[Any], generator: StyleGAN2, compiled: bool) -> None:
    """Have it write often, and its generator compiled if asked."""
    training.every = WRITTEN_EVERY
    if compiled:
        generator.compile()


def stop_unless_done(training: Training[Any], code: int, shared: bool = False) -> None:
    """End the program where the time is up, or it was interrupted. A training that shares the time is over with it."""
    if code or not (shared or training.trainer.done):
        sys.exit(code)


if __name__ == "__main__":
    main()
