"""Where a training begins: with a trained network, or a trained generator, its discriminator and their card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from latentopt.checkpoints.networks import load_discriminator, load_generator
from latentopt.errors import CheckpointError, LatentoptError, UsageError
from latentopt.files.schema import parse_json
from latentopt.files.storage import load_metadata
from latentopt.generators.discriminator import Discriminator
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.training import DRAWN
from latentopt.training.building import TrainedGenerator
from latentopt.training.generator_settings import GeneratorTraining

INHERITED = ("batch", "lr", "r1_gamma", "r1_interval", "path_weight", "path_interval", "mixing")


def begin_with(trained: nn.Module, networks: Iterable[nn.Module], name: str) -> None:
    """Give the networks the weights of a trained one, instead of random ones. Raises CheckpointError where they do not
    fit; name: of the trained one.
    """
    for network in networks:
        try:
            network.load_state_dict(trained.state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"{name}: of another architecture than the one to train: {error}") from error


def load_start(start: str) -> tuple[TrainedGenerator, Discriminator]:
    """The trained pair: a bundled model, a folder that has both files, or a snapshot that holds both.

    Raises UsageError where the discriminator is lacking, CheckpointError for files that are no such networks.
    """
    folder = Path(start)
    sources = {
        kind: str(folder / f"{kind}.safetensors") if folder.is_dir() else start
        for kind in ("generator", "discriminator")
    }
    generator = load_generator(sources["generator"])
    if not isinstance(generator, StyleGAN2 | StyleGAN3):
        raise CheckpointError(f"--start {start}: a generator of a family that is not trained here")
    try:
        return generator, load_discriminator(sources["discriminator"])
    except LatentoptError as error:
        remedy = (
            "a training begins with a generator and its discriminator: give a folder with generator.safetensors and"
        )
        raise UsageError(f"--start {start}: {error}; {remedy} discriminator.safetensors, or portraits") from error


def start_name(start: str) -> str:
    """The start, for the card: no folders of this machine."""
    return start if start == "portraits" else Path(start).name


def check_pair(start: str, generator: TrainedGenerator, discriminator: Discriminator) -> int:
    """The side of the square images of a pair. Raises UsageError for pairs that cannot be trained."""
    height, width = generator.resolution
    doublings = len(discriminator.config.channels) - 1
    judged = tuple(side << doublings for side in discriminator.config.const_size)
    if judged != (height, width):
        raise UsageError(f"--start {start}: the generator draws {height}x{width}, its discriminator takes {judged}")
    if height != width:
        raise UsageError(f"--start {start}: draws {height}x{width}; the training data are square")
    if {generator.img_channels, discriminator.config.img_channels} != {3}:
        raise UsageError(f"--start {start}: draws {generator.img_channels} channels; the training data are in colour")
    if generator.c_dim or discriminator.config.c_dim:
        raise UsageError(f"--start {start}: takes labels; the training data have none")
    return height


def chosen_data(start: str, card: dict[str, object], data: str | None, drawn: int | None) -> tuple[str, int]:
    """The data as given, or else those of the start's card, which names a folder but does not say where it is.

    Raises UsageError when neither says them.
    """
    if data is None and card.get("data") != "portraits":
        said = f" (it was trained on: {card['data']})" if card.get("data") else ""
        raise UsageError(f"--start {start}: does not say where its training data are{said}; give --data")
    known = card.get("drawn")
    if drawn is None:
        drawn = known if isinstance(known, int) else DRAWN
    return data or "portraits", drawn


def inherited(generator: TrainedGenerator) -> dict[str, Any]:
    """Settings of the start's own training. Noise inputs join at once where it has learned to use them."""
    settings, defaults = generator.card.get("settings"), asdict(GeneratorTraining())
    known = settings if isinstance(settings, dict) else {}
    found = {key: known[key] for key in INHERITED if isinstance(known.get(key), type(defaults[key]))}
    if isinstance(generator, StyleGAN2) and any(
        layer.noise_strength.abs().max() > 0 for layer in generator.synthesis.layers.values()
    ):
        found["noise_from"] = 0
    return found


def check_data(weights: Path, described: dict[str, object]) -> None:
    """Refuse to go on with other data than the earlier part of the training had: the card of its weights says them."""
    if not weights.exists():
        return
    try:
        card = parse_json(load_metadata(weights).get("card", "{}"), dict[str, Any])
    except ValueError as error:
        raise CheckpointError(f"{weights}: its card is damaged ({error}); use another --outdir") from error
    before = {key: card.get(key) for key in ("data", "drawn") if key in card}
    if before != described:
        raise UsageError(f"{weights}: was trained on {before}, not on {described}; use another --outdir")
