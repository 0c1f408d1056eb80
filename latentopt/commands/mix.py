"""latentopt mix: the coarse layers of one image, the fine layers of another."""

from __future__ import annotations

from pathlib import Path

import click

from latentopt.commands.latent_options import at_least, find_latents, latent_options
from latentopt.commands.paths import UserPath
from latentopt.files.text import escape_controls


@click.command("mix", short_help="Mix the styles of inverted images.")
@click.argument("runs", nargs=-1, type=UserPath(exists=True, path_type=Path))
@click.option(
    "--split",
    type=float,
    help="First row of ws from the second image, or a share of the rows below 1.  [default: 7 of 18]",
)
@click.option("--most", default=6, show_default=True, type=click.IntRange(2, 32), help="Images to mix, each with each.")
@latent_options
def command(
    runs: tuple[Path, ...],
    split: float | None,
    most: int,
    network: str | None,
    outdir: Path,
    to: Path | None,
    device: str,
) -> None:
    """Mix images of RUNS, each with each: results of inversions, or files of saved inputs; the newest run by default.

    The coarse layers (pose, shape) come from the one image and the fine ones (colours, light) from the other; noise
    maps and tuned weights go with their layers. Every mixture is written as PNG and with its latents, mixed.png shows
    all: a row for each image that gives the coarse layers, a column for each that gives the fine ones.

    \b
    Example:
      latentopt mix
      latentopt mix out/anna out/ben --split 4
    """
    from latentopt.api import mix_latents, read_latent, split_row
    from latentopt.files.outputs import check_free, workplace

    generator, sources, root = find_latents(
        runs, outdir, network, device, lambda root: check_free(to or root / "mixed")
    )
    at_least(sources, 2, "mixing")
    latents = [read_latent(source, generator) for source in sources[:most]]
    row = split_row(generator.num_ws, split)
    with workplace(to or root / "mixed") as folder:
        count = mix_latents(generator, latents, row, folder)
    rest = f"; {len(sources) - most} more images left out (--most)" if len(sources) > most else ""
    click.echo(escape_controls(f"{count} mixtures, split at row {row}, in {folder}/ (mixed.png){rest}"))
