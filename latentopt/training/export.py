"""From a training to files that others can use: the averaged generator and sigma, the discriminator, cards for each."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from latentopt.checkpoints.networks import save_discriminator, save_generator
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.statistics.sigma import Sigma
from latentopt.training.generator import GeneratorTrainer
from latentopt.types import GeneratorInputs

DESCRIBED_BY_CONFIG = ("resolution", "channel_base", "channel_max", "w_dim", "mapping_layers", "family", "layers")


def export(trainer: GeneratorTrainer, outdir: Path, name: str, card: dict[str, object]) -> None:
    """Write `generator.safetensors` (the moving average), `discriminator.safetensors` into `outdir`.

    Where weights are randomised, the generator is mu, and `sigma.safetensors` holds the magnitude of sigma's moving
    average.
    """
    settings = asdict(trainer.settings)
    if trainer.architecture is not None:
        settings = {key: value for key, value in settings.items() if key not in DESCRIBED_BY_CONFIG}
    card = {
        **card,
        "images_seen": trainer.images_seen,
        "steps": trainer.step,
        "seed": trainer.settings.seed,
        "settings": settings,
        "licence": "Apache-2.0",
    }
    average = copy.deepcopy(trainer.ema)  # for its fingerprint is computed once, and the training goes on
    average.name = name
    save_generator(average, outdir / "generator.safetensors", card)
    save_discriminator(trainer.discriminator, outdir / "discriminator.safetensors", card)
    if trainer.settings.randomized:
        card |= {"figures": trainer.sigma_ema.figures()}
        sigma = Sigma(trainer.sigma_ema.magnitudes(), "learned", average.fingerprint, trainer.base, card)
        sigma.save(outdir / "sigma.safetensors")


@torch.no_grad()
def sample_sheet(trainer: GeneratorTrainer, path: Path, side: int = 8) -> None:
    """A sheet of `side`^2 samples of the averaged generator, always from the same z.

    Where weights are randomised, a sample each epsilon; the last two rows repeat the first two with epsilon = 0.
    """
    rng, ema = torch.Generator().manual_seed(0), trainer.ema
    rows = torch.randn(side * side, ema.z_dim, generator=rng).to(trainer.device).split(side)
    images = [_drawn(trainer, z, None) for z in rows]
    if trainer.settings.randomized:
        rng = torch.Generator(trainer.device).manual_seed(0)
        images = [torch.cat([_drawn(trainer, z, rng) for z in row.split(1)]) for row in rows] + images[:2]
    contact_sheet([list(row.float().cpu().clamp(-1, 1)) for row in images], path)


def _drawn(trainer: GeneratorTrainer, z: Tensor, rng: torch.Generator | None) -> Tensor:
    """Images of z [B,Z], with one epsilon from `rng` for all of them, or epsilon = 0: [B,3,H,W]."""
    ws = trainer.ema.broadcast(trainer.ema.mapping(z))
    deltas = None if rng is None else trainer.sigma_ema.draw(rng) or None
    return trainer.ema.synthesis(GeneratorInputs(ws, deltas=deltas))
