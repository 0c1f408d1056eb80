"""The adversarial trainings, each as one call: a generator from nothing or from a trained one, and a WRanGAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from latentopt.data.folders import folder_images
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.outputs import check_outdir
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.statistics.sigma import Sigma
from latentopt.training import DRAWN
from latentopt.training.building import family_of
from latentopt.training.export import export, sample_sheet
from latentopt.training.generator import GeneratorTrainer
from latentopt.training.generator_settings import GeneratorTraining, TrainingStep
from latentopt.training.loop import Training
from latentopt.training.randomized import last_convolutions
from latentopt.training.starts import check_data, check_pair, chosen_data, inherited, load_start, start_name
from latentopt.training.streams import ArrayStream, ImageStream, stream_with_normals

SNAPSHOT, GENERATOR = "snapshot.pt", "generator.safetensors"
LOGGED_EVERY = 100  # steps


def train_generator(
    outdir: Path,
    settings: GeneratorTraining | None = None,
    *,
    data: str = "portraits",
    drawn: int = DRAWN,
    cache: Path | None = None,
    start: str | None = None,
    name: str = "generator",
    command: str = "",
    device: torch.device | str = "cpu",
) -> Training[TrainingStep]:
    """Train a generator of either family and its discriminator, as the training is iterated; the same call goes on.

    Each snapshot leaves generator.safetensors (the moving average of the weights), discriminator.safetensors and
    samples.png in `outdir`, beside snapshot.pt and log.jsonl.

    Args:
        settings: their `resolution` is a power of 2, at least 8.
        data: portraits, of which `drawn` are drawn, or a folder of pictures; both are kept in `cache` (outdir/data).
            Where `drawn` is 0, each step draws new portraits on `device`, and none is kept.
        start: a trained pair to begin with: portraits, a folder that has both, or a snapshot (.pkl, .pt) with both. A
            StyleGAN3 begins with a StyleGAN2's discriminator alone.
        name, command: stored in the card.

    Raises:
        UsageError: settings, data or a start that cannot be trained with, or other data than earlier.
        CheckpointError: a start that does not fit, or a snapshot that is damaged or was made with other settings.
        ImageError: a folder without pictures that can be read.
    """
    settings = settings or GeneratorTraining()
    if settings.resolution < 8 or settings.resolution & (settings.resolution - 1):
        raise UsageError(f"--resolution {settings.resolution}: must be a power of 2 of at least 8")
    check_outdir(outdir)
    described = _described(data, drawn)
    stream, notes = _stream(data, drawn, cache or outdir / "data", settings.resolution, device)
    trainer = GeneratorTrainer(settings, stream, device)
    if start is not None and not (outdir / SNAPSHOT).exists():
        generator, discriminator = load_start(start)
        family = family_of(generator)
        if family not in (settings.family, "stylegan2"):
            raise UsageError(f"--start {start}: a {family} generator; give --family {family}")
        trainer.start_from(generator if family == settings.family else None, discriminator)
    origin: dict[str, object] = {} if start is None else {"start": start_name(start)}
    return _training(trainer, outdir, name, described, origin, command, notes)


def train_wrangan(
    outdir: Path,
    start: str,
    *,
    layers: int = 6,
    sigma_init: float = 1.0,
    keep_level: bool = False,
    sigma: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
    drawn: int | None = None,
    cache: Path | None = None,
    name: str = "wrangan",
    command: str = "",
    device: torch.device | str = "cpu",
) -> Training[TrainingStep]:
    """Train a WRanGAN, weights mu + sigma * epsilon, as the training is iterated; the same call goes on.

    Source: WRanGAN, Algorithm 2. `start` is mu at first, and every sigma of its last `layers` convolutions is
    `sigma_init`; with `keep_level` only their distribution is learned. Each snapshot leaves what `train_generator`
    does, and sigma.safetensors.

    Args:
        sigma: a file of standard deviations to begin with instead, as an earlier WRanGAN of the same layers left it.
        settings: those of `GeneratorTraining` that are not the start's own, as far as its card has them.
        data, drawn: by default what the start was trained on. The others are as for `train_generator`, which also says
            what is raised.
    """
    check_outdir(outdir)
    generator, discriminator = load_start(start)
    resolution = check_pair(start, generator, discriminator)
    if not isinstance(generator, StyleGAN2):
        raise CheckpointError(f"--start {start}: a {generator.family} generator; a WRanGAN begins with a StyleGAN2")
    last_convolutions(generator, layers)  # before any data is drawn
    data, drawn = chosen_data(start, generator.card, data, drawn)
    own = {"resolution": resolution, "w_dim": generator.w_dim}
    randomized = {"randomized": layers, "sigma_init": sigma_init, "keep_level": keep_level}
    chosen = GeneratorTraining(**inherited(generator) | own | dict(settings or {}) | randomized)
    described = _described(data, drawn)
    stream, notes = _stream(data, drawn, cache or outdir / "data", resolution, device)
    trainer = GeneratorTrainer(chosen, stream, device, (generator.config, discriminator.config))
    trainer.start_from(generator, discriminator)
    if sigma is not None:
        for weights in (trainer.sigma, trainer.sigma_ema):
            weights.begin_with(Sigma.load(sigma).tensors)
    origin: dict[str, object] = {"start": start_name(start), "base": generator.fingerprint, "layers": layers}
    origin |= {} if sigma is None else {"sigma": sigma.name}
    return _training(trainer, outdir, name, described, origin, command, notes)


def _training(
    trainer: GeneratorTrainer,
    outdir: Path,
    name: str,
    described: dict[str, object],
    origin: dict[str, object],
    command: str,
    notes: tuple[str, ...],
) -> Training[TrainingStep]:
    if (outdir / SNAPSHOT).exists():
        check_data(outdir / GENERATOR, described)
    card = {"name": name, **described, **origin} | ({"command": command} if command else {})

    def leave() -> None:
        export(trainer, outdir, name, card)
        sample_sheet(trainer, outdir / "samples.png")

    def logged(record: TrainingStep) -> dict[str, object] | None:
        if record.step % LOGGED_EVERY:
            return None
        figures = asdict(record)
        if trainer.projected is None:
            del figures["h_loss"]
        return figures | ({"sigma": trainer.sigma_ema.figures()} if trainer.settings.randomized else {})

    return Training(trainer, outdir / SNAPSHOT, leave, notes, outdir / "log.jsonl", logged)


def _described(data: str, drawn: int) -> dict[str, object]:
    """The training data, for the card."""
    return {"data": "portraits", "drawn": drawn} if data == "portraits" else {"data": f"folder {Path(data).name}"}


def _stream(
    data: str, drawn: int, cache: Path, resolution: int, device: torch.device | str
) -> tuple[ImageStream, tuple[str, ...]]:
    """The images of `data`, drawn portraits or a folder's pictures, and notes on pictures that cannot be read."""
    if data == "portraits":
        return stream_with_normals(cache, drawn, resolution, device=device), ()
    images, skipped = folder_images(Path(data), cache, resolution)
    return ArrayStream(images), tuple(f"skipped: {reason}" for reason in skipped)
