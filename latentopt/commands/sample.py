"""`latentopt sample`."""

from __future__ import annotations

import math
import re
from pathlib import Path

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network
from latentopt.commands.delta_options import checked_strength, delta_options
from latentopt.commands.latent_options import find_latents
from latentopt.commands.move_options import asked_move, move_for, move_options
from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError
from latentopt.files.outputs import check_output
from latentopt.files.text import escape_controls

MAX_SEEDS = 100_000


class Seeds(click.ParamType):
    """`0-15` or `1,2,5-8`, as NVIDIA's tools take them."""

    name = "seeds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        seeds: list[int] = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if not match:
                self.fail(f"{value!r} is no list of seeds such as 0-15 or 1,2,5-8", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last >= 2**32 or len(seeds) + last - first >= MAX_SEEDS:
                self.fail(f"{part.strip()}: rises to at most 4294967295, {MAX_SEEDS} seeds in all", param, ctx)
            seeds += range(first, last + 1)
        return seeds


@click.command("sample")
@shared.network(default=None, show_default=f"portraits, or {shared.LIKE_RUN}")
@click.option("--seeds", type=Seeds(), default="0-15", show_default=True, help="Seeds, such as 0-15 or 1,2,5-8.")
@click.option(
    "--latents",
    "--projected-w",
    "files",
    multiple=True,
    type=UserPath(path_type=Path),
    metavar="FILE",
    help="Draw these latents instead: a file of them, ours or another tool's, or the folder of results.",
)
@click.option(
    "--trunc", type=float, default=0.7, show_default=True, help="Truncation psi; 1 is none, 0 the mean image."
)
@click.option("--class", "label", type=int, help="Class label; needed by generators that take labels.")
@click.option(
    "--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True, help="Noise."
)
@delta_options
@move_options
@shared.outdir(type=UserPath(file_okay=False, path_type=Path))
@click.option("--grid/--no-grid", default=True, show_default=True, help="Also write all images as one, grid.png.")
@shared.device()
def command(
    network: str | None,
    seeds: list[int],
    files: tuple[Path, ...],
    trunc: float,
    label: int | None,
    noise_mode: str,
    deltas: tuple[Path, ...],
    strength: float | None,
    force_delta: bool,
    rotate: float | None,
    translate: tuple[float, float] | None,
    outdir: Path,
    grid: bool,
    device: str,
) -> None:
    """Draw images from a generator: seedNNNN.png for each seed, and grid.png.

    The same seed gives the same z as NVIDIA's generate.py (numpy RandomState), so pictures can be compared.
    With --delta the same seeds are drawn with tuned weights. With --latents a picture is drawn of each latent, and
    called after it; seeds, truncation and labels then have no part in it. With --rotate and --translate the network
    draws its pictures turned and shifted, as StyleGAN3 can; nothing is resampled.

    \b
    Example:
      latentopt sample --seeds 0-15 --trunc 0.7 --outdir out
      latentopt sample --network ffhq.pkl --seeds 85,265,297 --trunc 1
      latentopt sample --delta out/ada --strength 0.5 --outdir tuned
      latentopt sample --network ffhq.pkl --latents projected_w.npz --outdir drawn
      latentopt sample --network stylegan3-t-ffhq.pkl --rotate 20 --translate 0.1,0
    """
    if not math.isfinite(trunc):
        raise UsageError(f"--trunc must be a finite number, not {trunc}")
    scale, asked = checked_strength(deltas, strength, force_delta), asked_move(rotate, translate)
    check_output(outdir / "grid.png")

    from latentopt.api import draw, load_deltas, read_latent, save_pictures, save_samples

    if files:
        generator, sources, _ = find_latents(files, outdir, network, device)
    else:
        generator, sources = load_network(network or "portraits", device), []
    move = move_for(generator, asked)
    drawing = load_deltas(deltas, generator, scale, force_delta).bake(generator) if deltas else generator
    if files:
        latents = (read_latent(source, generator) for source in sources)
        inputs = ((x.name, x.inputs if move is None else move(x.inputs)) for x in latents)
        save_pictures(((name, draw(drawing, x, noise_mode)) for name, x in inputs), outdir, grid)
    else:
        save_samples(drawing, seeds, outdir, trunc, label, noise_mode, grid, move)
    click.echo(escape_controls(f"{len(sources) if files else len(seeds)} images in {outdir}"))
