"""latentopt train perceptual and judge: the networks of the portraits domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.train_loop import follow_training
from latentopt.commands.train_options import folder_options
from latentopt.files.outputs import check_outdir

if TYPE_CHECKING:
    from latentopt.training.attributes import AttributeStep


@click.command("perceptual")
@click.option("--steps", default=3000, show_default=True, help="Updates in all.")
@click.option("--images", default=60_000, show_default=True, help="Training portraits.")
@shared.seed(default=1)
@folder_options
def perceptual(steps: int, images: int, seed: int, outdir: Path, cache: Path, device: str, quiet: bool) -> int:
    """Train the small network whose features are the embedded perceptual loss.

    \b
    Example:
      latentopt train perceptual --outdir train
    """
    check_outdir(outdir)

    from latentopt.devices import choose_device
    from latentopt.training.train_networks import train_perceptual

    out = outdir / "perceptual.safetensors"
    training = train_perceptual(out, cache, steps, images, seed, choose_device(device))
    return follow_training(training, "perceptual", _losses, quiet=quiet)


@click.command("judge")
@click.option("--steps", default=3000, show_default=True, help="Updates in all.")
@click.option("--images", default=40_000, show_default=True, help="Training portraits.")
@shared.seed(default=2)
@folder_options
def judge(steps: int, images: int, seed: int, outdir: Path, cache: Path, device: str, quiet: bool) -> int:
    """Train the judge, which reads attributes and identity for evaluation only.

    \b
    Example:
      latentopt train judge --outdir train
    """
    check_outdir(outdir)

    from latentopt.devices import choose_device
    from latentopt.training.train_networks import train_judge

    out = outdir / "judge.safetensors"
    training = train_judge(out, cache, steps, images, seed, choose_device(device))
    return follow_training(training, "judge", _losses, quiet=quiet)


def _losses(record: AttributeStep) -> dict[str, float]:
    return {"attributes": record.attributes, "identity": record.identity}
