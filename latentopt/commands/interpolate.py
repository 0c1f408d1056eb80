"""latentopt interpolate: from one inverted image to the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.latent_options import (
    at_least,
    find_latents,
    latent_options,
)
from latentopt.commands.paths import UserPath
from latentopt.files.text import escape_controls
from latentopt.recipe.spaces import checked_latent_space
from latentopt.registry import PARAMETERIZATIONS

if TYPE_CHECKING:
    from latentopt.protocols import Generator, Parameterization


@click.command("interpolate", short_help="Interpolate between inverted images.")
@click.argument("runs", nargs=-1, type=UserPath(exists=True, path_type=Path))
@click.option("--space", default="w+", show_default=True, help="Where the way is straight: any space of latents.")
@click.option(
    "--pictures",
    "--steps",
    "steps",
    default=7,
    show_default=True,
    type=click.IntRange(3, 1000),
    help="Pictures a way, both ends included.",
)
@shared.stats()
@click.option("--animate", is_flag=True, help="Also write a film (WebP).")
@latent_options
def command(
    runs: tuple[Path, ...],
    space: str,
    steps: int,
    stats: Path | None,
    animate: bool,
    network: str | None,
    outdir: Path,
    to: Path | None,
    device: str,
) -> None:
    """Go from each image of RUNS to the next: results of inversions, or files of saved inputs; the newest run by
    default.

    Every picture in between is written as PNG and with its latents; interpolated-SPACE.png shows all.

    \b
    Example:
      latentopt interpolate out/anna out/ben --space p-norm+
      latentopt interpolate --pictures 9 --animate
    """
    from latentopt.api import interpolate_latents, read_latent
    from latentopt.files.outputs import check_free, workplace

    checked_latent_space(space)
    generator, sources, root = find_latents(
        runs, outdir, network, device, lambda root: check_free(to or root / "interpolated")
    )
    at_least(sources, 2, "interpolation")
    latents = (read_latent(source, generator) for source in sources)
    lens = lens_of(space, generator, stats)
    with workplace(to or root / "interpolated") as folder:
        count = interpolate_latents(generator, latents, lens, space, folder, steps, animate)
    ways = "1 way" if count == 1 else f"{count} ways"
    click.echo(escape_controls(f"{ways} of {steps} pictures in {folder}/ (interpolated-{space}.png)"))


def lens_of(space: str, generator: Generator, stats: Path | None) -> Parameterization:
    """The latent space of that name, by the statistics in the file `stats` if it goes by any. Raises UsageError."""
    reads = PARAMETERIZATIONS.declared(PARAMETERIZATIONS.resolve(space)).reads
    named = {option: str(stats) for option, kind in reads.items() if kind == "p-norm" and stats is not None}
    return PARAMETERIZATIONS.create(space, generator, **named).in_float64()
