"""From a refiner's training to files: held-out figures, the averaged network with its card, a sheet of pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from latentopt.pictures.channels import in_colour
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.refiners.files import save_refiner
from latentopt.refiners.refiner import NetworkRefiner
from latentopt.training.refiner import RefinerTrainer

BATCH = 16
SHOWN = 8  # images on the sheet


@torch.no_grad()
def validate(trainer: RefinerTrainer, images: Tensor) -> dict[str, float]:
    """Figures of held-out images [n,C,H,W], means over them: l2 and perceptual of the refined pictures, and of the
    encoder's alone (`base_`).
    """
    refiner, generator = NetworkRefiner(trainer.generator, trainer.trained()), trainer.generator
    sums: dict[str, float] = {}
    for part in images.to(trainer.device).split(BATCH):
        target = trainer.distortion.target(in_colour(part))
        base = trainer.encoder.encode(generator, part)[-1]
        for prefix, inputs in (("", refiner(part, base, base)), ("base_", base)):
            found = trainer.distortion(in_colour(generator.synthesis(inputs)), target)
            for name in ("l2", "perceptual"):
                sums[prefix + name] = sums.get(prefix + name, 0.0) + found[name].item() * len(part) / len(images)
    return sums


def export(trainer: RefinerTrainer, path: Path, card: dict[str, object], held_out: Tensor) -> dict[str, float]:
    """Write the averaged refiner, its figures on held-out images [n,C,H,W] in its card. Returns the figures."""
    figures = validate(trainer, held_out)
    card = {
        **card,
        "encoder": {"name": trainer.encoder.name, "fingerprint": trainer.encoder.fingerprint},
        "steps": trainer.step,
        "images_seen": trainer.images_seen,
        "seed": trainer.settings.seed,
        "settings": asdict(trainer.settings),
        "perceptual_network": trainer.distortion.features.network,
        "held_out": {"images": len(held_out), **figures},
        "licence": "Apache-2.0",
    }
    save_refiner(trainer.trained(card), path)
    return figures


@torch.no_grad()
def sheet(trainer: RefinerTrainer, images: Tensor, path: Path) -> None:
    """A sheet of the first images of [n,C,H,W]; below each what the encoder makes of it and that refined, then both
    edited, half the way to the next image's code.
    """
    generator, shown = trainer.generator, images[:SHOWN].to(trainer.device)
    refiner = NetworkRefiner(generator, trainer.trained())
    base = trainer.encoder.encode(generator, shown)[-1]
    edited = base.replace(ws=torch.lerp(base.ws, base.ws.roll(-1, 0), trainer.settings.alpha_max))
    drawn = (base, refiner(shown, base, base), edited, refiner(shown, base, edited))
    rows = [shown, *(generator.synthesis(inputs) for inputs in drawn)]
    contact_sheet([list(row.float().cpu().clamp(-1, 1)) for row in rows], path)
