"""latentopt train wrangan: go on with a trained generator, its last weights drawn from normal distributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latentopt.commands.paths import UserPath
from latentopt.commands.train_loop import command_line, follow_adversarial
from latentopt.commands.train_options import adversarial_options, folder_options, images_option
from latentopt.files.outputs import check_outdir


@click.command("wrangan")
@click.option(
    "--start",
    required=True,
    type=UserPath(),
    metavar="NAME|FOLDER|FILE",
    help="The trained generator and discriminator: portraits, a folder or a snapshot (.pkl, .pt) that has both.",
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
    "--sigma",
    type=UserPath(path_type=Path),
    metavar="FILE",
    help="Begin with the sigma of an earlier WRanGAN; with --keep-level, at the level of --sigma-init.",
)
@click.option(
    "--keep-level/--free-level",
    default=False,
    show_default=True,
    help="Hold the mean of log sigma, so that sigma cannot fall to nothing: only its distribution is learned.",
)
@click.option(
    "--data",
    type=UserPath(),
    metavar="NAME|FOLDER",
    help="portraits (drawn by latentopt), or a folder; by default what the start was trained on.",
)
@click.option("--drawn", type=int, help="How many portraits to draw and keep; by default as for the start.")
@images_option
@adversarial_options
@click.option("--name", default="wrangan", show_default=True, help="Name stored in the file.")
@folder_options
def wrangan(
    start: str,
    layers: int,
    sigma_init: float,
    sigma: Path | None,
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
    check_outdir(outdir)

    from latentopt.devices import choose_device
    from latentopt.training.train_generator import train_wrangan

    training = train_wrangan(
        outdir,
        start,
        layers=layers,
        sigma_init=sigma_init,
        keep_level=keep_level,
        sigma=sigma,
        settings={key: value for key, value in settings.items() if value is not None},
        data=data,
        drawn=drawn,
        cache=cache,
        name=name,
        command=command_line(),
        device=choose_device(device),
    )
    return follow_adversarial(training, minutes, quiet)
