"""From an encoder's training to files: held-out figures, the averaged network with its card, a sheet of pictures."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from latentopt.encoders.encoder import Encoder
from latentopt.encoders.files import save_encoder
from latentopt.encoders.heads import resized
from latentopt.pictures.channels import in_colour
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.training.encoder import EncoderTrainer

BATCH = 16
SHOWN = 8  # images on the sheet


def averaged_encoder(trainer: EncoderTrainer, card: dict[str, object] | None = None) -> Encoder:
    """A copy of the encoder with the moving average of its weights, in evaluation mode.

    Rows of e4e that had no offsets by the last step have none in it either (`stage` of its configuration).
    """
    net, rows = copy.deepcopy(trainer.ema), trainer.generator.num_ws
    stage = trainer.settings.stage(max(trainer.step - 1, 0), rows)
    net.config = replace(trainer.config, stage=None if stage == rows - 1 else stage)
    trained = trainer.encoder
    return Encoder(net, trained.latent_avg, trained.generator, f"encoder-{trainer.settings.kind}", card or {})


@torch.no_grad()
def validate(trainer: EncoderTrainer, images: Tensor) -> dict[str, list[float]]:
    """Figures of held-out images [n,3,H,W] after each of ReStyle's steps (one-pass encoders: one), noise as stored.

    `l2` and `perceptual` are means over the images, at the encoder's size; `variation` is e4e's (its section 8.2): the
    Euclidean distance of the rows of a code from their mean, as one vector.
    """
    encoder, generator, size = averaged_encoder(trainer), trainer.generator, trainer.config.image_size
    batches = []
    for part in images.to(trainer.device).split(BATCH):
        target = trainer.distortion.target(resized(in_colour(part), size))
        steps = []
        for inputs in encoder.encode(generator, part):
            figures = trainer.distortion(resized(in_colour(generator.synthesis(inputs)), size), target)
            variation = (inputs.ws - inputs.ws.mean(dim=1, keepdim=True)).flatten(1).norm(dim=1).mean()
            steps.append(torch.stack([figures["l2"], figures["perceptual"], variation]))
        batches.append(torch.stack(steps) * (len(part) / len(images)))  # [N,3]
    means = torch.stack(batches).sum(dim=0)
    return dict(zip(("l2", "perceptual", "variation"), means.T.tolist(), strict=True))


def export(trainer: EncoderTrainer, path: Path, card: dict[str, object], held_out: Tensor) -> dict[str, list[float]]:
    """Write the averaged encoder, its figures on held-out images [n,3,H,W] in its card. Returns the figures."""
    figures = validate(trainer, held_out)
    card = {
        **card,
        "steps": trainer.step,
        "images_seen": trainer.images_seen,
        "seed": trainer.settings.seed,
        "settings": asdict(trainer.settings),
        "perceptual_network": trainer.distortion.features.network,
        "held_out": {"images": len(held_out), **figures},
        "licence": "Apache-2.0",
    }
    save_encoder(averaged_encoder(trainer, card), path)
    return figures


@torch.no_grad()
def reconstruction_sheet(trainer: EncoderTrainer, images: Tensor, path: Path) -> None:
    """A sheet of the first images of [n,3,H,W] and, below each, what the encoder makes of it, one row a step."""
    generator, shown = trainer.generator, images[:SHOWN].to(trainer.device)
    found = averaged_encoder(trainer).encode(generator, shown)
    rows = [resized(shown, trainer.config.image_size), *(generator.synthesis(inputs) for inputs in found)]
    contact_sheet([list(row.float().cpu().clamp(-1, 1)) for row in rows], path)
