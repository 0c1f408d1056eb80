"""From a training to files that others can use: the averaged generator, the discriminator, and a card for each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from latentopt.contact_sheet import contact_sheet
from latentopt.generators.checkpoints import save_discriminator, save_generator
from latentopt.training.generator import GeneratorTrainer
from latentopt.types import GeneratorInputs


def export(trainer: GeneratorTrainer, outdir: Path, name: str, card: dict[str, object]) -> None:
    """Write `generator.safetensors` (the moving average) and `discriminator.safetensors` into `outdir`."""
    card = {
        **card,
        "images_seen": trainer.images_seen,
        "steps": trainer.step,
        "seed": trainer.settings.seed,
        "settings": asdict(trainer.settings),
        "licence": "Apache-2.0",
    }
    trainer.ema.name = name
    save_generator(trainer.ema, outdir / "generator.safetensors", card)
    save_discriminator(trainer.discriminator, outdir / "discriminator.safetensors", card)


@torch.no_grad()
def sample_sheet(trainer: GeneratorTrainer, path: Path, side: int = 8) -> None:
    """A sheet of `side`^2 samples of the averaged generator, always from the same z."""
    settings, rng = trainer.settings, torch.Generator().manual_seed(0)
    z = torch.randn(side * side, settings.w_dim, generator=rng).to(trainer.device)
    ema = trainer.ema
    images = [ema.synthesis(GeneratorInputs(ema.broadcast(ema.mapping(part)))) for part in z.split(side)]
    contact_sheet([list(row.float().cpu().clamp(-1, 1)) for row in images], path)
