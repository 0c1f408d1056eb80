"""latentopt train: the generator and the networks of a domain, each resumable by giving the same command again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latentopt.commands.paths import UserPath
from latentopt.commands.train_encoder import encoder
from latentopt.commands.train_loop import command_line, follow_adversarial
from latentopt.commands.train_networks import judge, perceptual
from latentopt.commands.train_options import adversarial_options, folder_options, images_option, trial_options
from latentopt.commands.train_refiner import flow, refiner
from latentopt.commands.train_wrangan import wrangan
from latentopt.files.outputs import check_outdir
from latentopt.training import DRAWN, GENERATOR_FAMILIES


@click.group("train", short_help="Train the bundled kinds of models.")
def command() -> None:
    """Train a generator, one whose weights are random (WRanGAN), or the networks of the portraits domain.

    \b
    Example:
      latentopt train generator --images 20000 --outdir train
      latentopt train wrangan --start portraits --outdir train/wrangan
    """


@command.command("generator")
@click.option(
    "--data",
    default="portraits",
    show_default=True,
    type=UserPath(),
    metavar="NAME|FOLDER",
    help="portraits (drawn by latentopt), or a folder.",
)
@click.option("--drawn", default=DRAWN, show_default=True, help="Portraits to draw and keep; 0: new ones each step.")
@images_option
@click.option("--resolution", default=64, show_default=True, help="Side of the images, a power of 2.")
@click.option("--family", type=click.Choice(GENERATOR_FAMILIES), help="Of the generator; the first by default.")
@click.option("--channel-base", type=int, help="Channels at r x r are min(channel-base / r, channel-max).")
@click.option("--channel-max", type=int, help="Channels of a layer at most.")
@click.option(
    "--synthesis-layers", "layers", type=int, help="Layers of the generator, in a family that leaves their number open."
)
@click.option("--w-dim", type=int, help="Dimension of z and w.")
@click.option("--mapping-layers", type=int, help="Layers of the mapping network.")
@adversarial_options
@trial_options
@click.option(
    "--start",
    type=UserPath(),
    metavar="NAME|FOLDER",
    help="Begin with a trained generator and discriminator: portraits, or a folder that has both.",
)
@click.option("--name", default="generator", show_default=True, help="Name stored in the file.")
@folder_options
def generator(
    data: str,
    drawn: int,
    start: str | None,
    minutes: float | None,
    name: str,
    outdir: Path,
    cache: Path,
    device: str,
    quiet: bool,
    **settings: Any,
) -> int:
    """Train a generator and a StyleGAN2 discriminator, from nothing or from the last snapshot in the output folder.

    Writes generator.safetensors (the moving average of the weights), discriminator.safetensors, samples.png and
    log.jsonl, at every snapshot (each four minutes), when interrupted, and at the end.

    \b
    Example:
      latentopt train generator --data portraits --images 200000
      latentopt train generator --data pictures/ --resolution 128 --device cuda
      latentopt train generator --family stylegan3-t --start portraits --device cuda --outdir train3
    """
    check_outdir(outdir)

    from latentopt.devices import choose_device
    from latentopt.training.generator_settings import GeneratorTraining
    from latentopt.training.train_generator import train_generator

    training = train_generator(
        outdir,
        GeneratorTraining(**{key: value for key, value in settings.items() if value is not None}),
        data=data,
        drawn=drawn,
        cache=cache,
        start=start,
        name=name,
        command=command_line(),
        device=choose_device(device),
    )
    return follow_adversarial(training, minutes, quiet)


for network in (wrangan, encoder, refiner, flow, perceptual, judge):
    command.add_command(network)
