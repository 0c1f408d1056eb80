"""What the `latentopt train` commands share: their options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from latentopt.commands import shared
from latentopt.commands.paths import UserPath
from latentopt.training import DRAWN, FEATURES, LOSSES, PRECISIONS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _together(*options: Decorator) -> Decorator:
    """Several options as one decorator; the help lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _precision(known: Sequence[str]) -> Decorator:
    said = "Of the training's arithmetic; auto, the default: what the device is quick in."
    return click.option("--precision", type=click.Choice(known), help=said)


cache_option = click.option(
    "--cache",
    default="train/data",
    show_default=True,
    type=UserPath(path_type=Path),
    help="Folder of training pictures.",
)
folder_options = _together(shared.outdir(default="train"), cache_option, shared.device(), shared.quiet())

adversarial_options = _together(
    click.option("--batch", type=int, help="Images a step."),
    click.option("--lr", type=float, help="Learning rate of the discriminator."),
    click.option("--generator-rate", type=float, help="The generator's, in those of --lr; 1 by default."),
    click.option("--mixing", type=float, help="Share of pictures with two styles."),
    click.option("--ema-images", type=float, help="Half-life of the moving average, in images."),
    click.option("--ema-rampup", type=float, help="Half-life of the moving average, in all images so far, at first."),
    click.option("--r1-gamma", type=float, help="Weight of the R1 penalty."),
    click.option("--path-weight", type=float, help="Weight of path-length regularisation; 0 leaves it out."),
    click.option("--noise-from", type=int, help="Images after which noise inputs join."),
    click.option("--noise-strength", type=float, help="Least strength of the noise inputs."),
    click.option("--discriminator-first", type=int, help="Images that the discriminator learns from alone at first."),
    _precision(PRECISIONS),
    shared.seed(default=None, show_default="0"),
    click.option("--minutes", type=float, help="Stop after this long; the same command goes on."),
)
trial_options = _together(
    click.option("--loss", type=click.Choice(LOSSES), help="Of the discriminator of images; logistic by default."),
    click.option(
        "--features", type=click.Choice(FEATURES), help="Add a discriminator on frozen features of a network."
    ),
    click.option("--feature-weight", type=float, help="Weight of its part in the generator's loss."),
    click.option("--feature-lr", type=float, help="Learning rate of its heads."),
)
images_option = click.option("--images", default=200_000, show_default=True, help="Real images to show in all.")

pictures_option = _together(
    click.option(
        "--data",
        default="portraits",
        show_default=True,
        type=UserPath(),
        metavar="NAME|FOLDER",
        help="portraits (drawn), samples (the generator's own), or a folder.",
    ),
    click.option("--drawn", default=DRAWN, show_default=True, help="Portraits to draw and keep; 0: always new ones."),
)
likeness_options = _together(
    click.option(
        "--perceptual",
        "perceptual_net",
        type=click.Choice(["auto", "bundled", "lpips-vgg", "lpips-alex"]),
        help="Network of the perceptual distance; auto: the bundled one for portraits, else lpips-alex.",
    ),
    click.option(
        "--similarity", type=UserPath(path_type=Path), help="Weights of MoCo or ResNet-50, or a perceptual network."
    ),
)
pace_options = _together(
    _precision(("auto", "bfloat16", "float32")),
    shared.seed(default=None, show_default="0"),
    click.option("--minutes", type=float, help="Stop after this long; the same command goes on."),
)
validate_option = click.option(
    "--validate-every", default=500, show_default=True, type=click.IntRange(min=1), help="Steps."
)
