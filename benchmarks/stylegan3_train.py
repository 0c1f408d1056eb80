"""Trains the small StyleGAN3-T of portraits in which `stylegan3.py` looks for placements.

    python benchmarks/stylegan3_train.py --minutes 60
    python benchmarks/stylegan3_train.py --minutes 40 --lr 2e-3 --seed 2 \\
        --start benchmarks/nets/portraits-t32.safetensors

Nets of random weights draw textures, which have no place of their own. This one draws a portrait at 32 pixels, upright
and in the middle, by regression on the portraits of its latents (`latentopt.training.regression`), the warm start of a
GAN's training. It is not trained as a GAN: its portraits are blurred. One core learns 10 to 35 pictures a second. The
net in `nets` was trained with these settings in three runs: about 10,000 pictures, 3,200 more with another seed, and
35,200 by the second command above. Heads, hair, brows and eyes are there; mouths and glasses are not.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.perceptual.network import load_perceptual_net
from latentopt.training.building import random_generator
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.training.regression import Regression, RegressionTrainer
from latentopt.training.streams import stream_with_normals

NET = Path(__file__).parent / "nets" / "portraits-t32.safetensors"
ARCHITECTURE = GeneratorTraining(
    family="stylegan3-t", resolution=32, channel_base=512, channel_max=40, w_dim=64, mapping_layers=2, layers=8
)
IMAGES = 1_000_000  # at most; the minutes end it
DRAWN = 20_000
WRITTEN_EVERY = 200  # steps


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="A net of this script, to train further.")
@click.option("--lr", default=3e-3, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Another one for every further training.")
@click.option("--cache", default="train/data", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", default=NET, show_default=True, type=click.Path(path_type=Path))
def main(minutes: float, start: Path | None, lr: float, seed: int, cache: Path, out: Path) -> None:
    torch.set_num_threads(1)
    generator = random_generator(ARCHITECTURE) if start is None else load_generator(start).requires_grad_(True)
    known, seen = start is not None, int(generator.card.get("images_seen", 0)) if start is not None else 0
    settings = Regression(
        images=IMAGES,
        lr=lr,
        mapping_steps=0 if known else 2000,
        known=known,
        fresh=not known,
        mixing=0.0,
        ema_images=3000,
        seed=seed,
    )
    stream = stream_with_normals(cache, DRAWN, ARCHITECTURE.resolution, 0, "cpu")
    trainer = RegressionTrainer(generator, load_perceptual_net("portraits"), stream, settings)
    ends = time.monotonic() + 60 * minutes
    while time.monotonic() < ends:
        record = trainer.update()
        if record.step % WRITTEN_EVERY == 0 or time.monotonic() >= ends:
            click.echo(f"{record.images:,} portraits, l1 {record.l1:.3f}, distance {record.distance:.3f}")
            card = {"name": "portraits-t32", "data": "portraits", "licence": "Apache-2.0"}
            save_generator(trainer.averaged(), out, card | {"images_seen": seen + record.images, "lr": lr})


if __name__ == "__main__":
    main()
