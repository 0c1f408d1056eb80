"""latentopt train perceptual and judge: the networks of the portraits domain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from latentopt.commands.train_options import folder_options


@click.command("perceptual")
@click.option("--steps", default=3000, show_default=True)
@click.option("--images", default=60_000, show_default=True, help="Training portraits.")
@click.option("--seed", default=1, show_default=True, help="Of the first weights and the order of the portraits.")
@folder_options
def perceptual(steps: int, images: int, seed: int, outdir: Path, cache: Path, device: str, quiet: bool) -> int:
    """Train the small network whose features are the embedded perceptual loss.

    \b
    Example:
      latentopt train perceptual --outdir train
    """
    from latentopt.devices import choose_device
    from latentopt.training.attributes import train_perceptual

    records = train_perceptual(outdir / "perceptual.safetensors", cache, steps, images, seed, choose_device(device))
    return _follow(records, steps, "perceptual", quiet)


@click.command("judge")
@click.option("--steps", default=3000, show_default=True)
@click.option("--images", default=40_000, show_default=True, help="Training portraits.")
@click.option("--seed", default=2, show_default=True, help="Of the first weights and the order of the portraits.")
@folder_options
def judge(steps: int, images: int, seed: int, outdir: Path, cache: Path, device: str, quiet: bool) -> int:
    """Train the judge, which reads attributes and identity for evaluation only.

    \b
    Example:
      latentopt train judge --outdir train
    """
    from latentopt.devices import choose_device
    from latentopt.training.attributes import train_judge

    records = train_judge(outdir / "judge.safetensors", cache, steps, images, seed, choose_device(device))
    return _follow(records, steps, "judge", quiet)


def _follow(records: Iterable[Any], steps: int, label: str, quiet: bool) -> int:
    from latentopt.commands.progress import Progress

    with Progress(steps, label, unit="step", quiet=quiet) as progress:
        for record in records:
            progress.advance(record.step - progress.done, attributes=record.attributes, identity=record.identity)
    return 0
