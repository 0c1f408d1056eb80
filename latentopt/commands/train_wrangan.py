"""latentopt train wrangan: go on with a trained generator, its last weights drawn from normal distributions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.train_options import PRECISIONS, adversarial_options, folder_options, images_option
from latentopt.errors import UsageError

if TYPE_CHECKING:
    from latentopt.generators.discriminator import Discriminator
    from latentopt.generators.stylegan2 import StyleGAN2

INHERITED = ("batch", "lr", "r1_gamma", "r1_interval", "path_weight", "path_interval", "mixing", "precision")


@click.command("wrangan")
@click.option(
    "--start",
    required=True,
    help="The trained generator and discriminator: portraits, a folder that has both, or a snapshot (.pkl, .pt) with both.",
)
@click.option("--layers", default=6, show_default=True, help="Randomise the last so many convolutions (not toRGB).")
@click.option(
    "--sigma-init",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Every sigma at the start; 0.1 spares a short training the time in which 1 wrecks all images.",
)
@click.option(
    "--keep-level/--free-level",
    default=False,
    show_default=True,
    help="Hold the mean of log sigma, so that sigma cannot fall to nothing: only its distribution is learned.",
)
@click.option("--data", help="portraits (drawn by latentopt), or a folder; by default what the start was trained on.")
@click.option("--drawn", type=int, help="How many portraits to draw and keep; by default as for the start.")
@images_option
@adversarial_options
@click.option("--name", default="wrangan", show_default=True, help="Name stored in the file.")
@folder_options
def wrangan(
    start: str,
    layers: int,
    sigma_init: float,
    keep_level: bool,
    data: str | None,
    drawn: int | None,
    minutes: float | None,
    name: str,
    outdir: Path,
    cache: Path,
    device: str,
    quiet: bool,
    **settings: Any,
) -> int:
    """Train a WRanGAN: weights mu + sigma * epsilon, so that sigma says how far each weight may be moved.

    Begins with a trained generator as mu and --sigma-init as every sigma; generator and discriminator are both trained.
    Writes generator.safetensors (mu, an ordinary generator), sigma.safetensors (both moving averages),
    discriminator.safetensors, samples.png (last two rows: epsilon = 0) and log.jsonl, at every snapshot (each four
    minutes), when interrupted, and at the end. Settings that are not given are those of the start, where its file has
    them.

    \b
    Example:
      latentopt train wrangan --start portraits --layers 6 --outdir train/wrangan
      latentopt train wrangan --start portraits --sigma-init 0.1 --keep-level --images 200000 --outdir train/wrangan
    """
    from latentopt.commands.train_loop import check_data, described_data, load_start, start_name, stream_of, train
    from latentopt.devices import choose_device
    from latentopt.files.outputs import check_outdir
    from latentopt.training.generator import GeneratorTrainer, GeneratorTraining
    from latentopt.training.randomized import last_convolutions

    check_outdir(outdir)
    generator, discriminator = load_start(start)
    resolution = check_pair(start, generator, discriminator)
    last_convolutions(generator, layers)  # before any data is drawn
    data, drawn = chosen_data(start, generator.card, data, drawn)
    given = {key: value for key, value in settings.items() if value is not None}
    training = GeneratorTraining(
        **inherited(generator) | {"resolution": resolution, "w_dim": generator.w_dim} | given,
        randomized=layers,
        sigma_init=sigma_init,
        keep_level=keep_level,
    )
    described, chosen = described_data(data, drawn), choose_device(device)
    architecture = (generator.config, discriminator.config)
    trainer = GeneratorTrainer(training, stream_of(data, drawn, cache, resolution), chosen, architecture)
    if (outdir / "snapshot.pt").exists():
        check_data(outdir / "generator.safetensors", described)
        trainer.load(outdir / "snapshot.pt", base=generator.fingerprint)
        click.echo(f"going on from {trainer.images_seen:,} images", err=True)
    else:
        trainer.start_from(generator, discriminator)
    card = {"name": name, **described, "start": start_name(start), "base": generator.fingerprint, "layers": layers}
    return train(trainer, outdir, name, card, minutes, quiet)


def check_pair(start: str, generator: StyleGAN2, discriminator: Discriminator) -> int:
    """The side of the square images of a pair. Raises UsageError for pairs that cannot be trained."""
    height, width = generator.resolution
    doublings = len(discriminator.config.channels) - 1
    judged = tuple(side << doublings for side in discriminator.config.const_size)
    if judged != (height, width):
        raise UsageError(f"--start {start}: the generator draws {height}x{width}, its discriminator takes {judged}")
    if height != width:
        raise UsageError(f"--start {start}: draws {height}x{width}; the training data are square")
    if generator.c_dim or discriminator.config.c_dim:
        raise UsageError(f"--start {start}: takes labels; the training data have none")
    return height


def chosen_data(start: str, card: dict[str, object], data: str | None, drawn: int | None) -> tuple[str, int]:
    """The data as given, or else those of the start's card, which names a folder but does not say where it is.

    Raises UsageError when neither says them.
    """
    if data is None and card.get("data") != "portraits":
        known = f" (it was trained on: {card['data']})" if card.get("data") else ""
        raise UsageError(f"--start {start}: does not say where its training data are{known}; give --data")
    known = card.get("drawn")
    return data or "portraits", drawn or (known if isinstance(known, int) else 60_000)


def inherited(generator: StyleGAN2) -> dict[str, Any]:
    """Settings of the start's own training. Noise inputs join at once where it has learned to use them."""
    from latentopt.training.generator import GeneratorTraining

    settings, defaults = generator.card.get("settings"), asdict(GeneratorTraining())
    known = settings if isinstance(settings, dict) else {}
    found = {key: known[key] for key in INHERITED if isinstance(known.get(key), type(defaults[key]))}
    if found.get("precision") not in PRECISIONS:
        found.pop("precision", None)
    if any(layer.noise_strength.abs().max() > 0 for layer in generator.synthesis.layers.values()):
        found["noise_from"] = 0
    return found
