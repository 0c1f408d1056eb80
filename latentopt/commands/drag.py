"""latentopt drag: points of a picture to where they shall be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network
from latentopt.commands.film_options import asked_film, film_options
from latentopt.commands.interrupting import interruptible
from latentopt.commands.latent_options import find_latents, latent_options
from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.dragging.drag import DragStep
    from latentopt.editing.latents import Latent
    from latentopt.protocols import Generator

MOST_SEED = 2**32 - 1


@click.command("drag", short_help="Drag points of a picture to where they shall be.")
@click.argument("run", required=False, type=UserPath(exists=True, path_type=Path))
@click.option(
    "--point",
    "points",
    multiple=True,
    required=True,
    metavar="X,Y:X,Y",
    help="From where to where, in pixels of the picture (30,40:34,40) or shares of it (45%,60%:50%,60%).",
)
@click.option(
    "--mask",
    type=UserPath(path_type=Path),
    metavar="FILE",
    help="Picture of what may move: white moves, black stays. Of any size of the picture's shape.",
)
@click.option("--seed", type=click.IntRange(0, MOST_SEED), help="Drag this seed's sample instead of a result.")
@click.option("--trunc", type=float, help="Truncation psi; 1 is none, 0 the mean image.")
@click.option("--class", "label", type=int, help="Class label; needed by generators that take labels.")
@click.option("--recipe", default="drag", show_default=True, type=UserPath(), help="How: a recipe that drags.")
@shared.steps()
@shared.lr()
@shared.recipe_settings()
@click.option("--name", default="dragged", show_default=True, help="What the files are called.")
@film_options
@click.option("--marks", is_flag=True, help="Show the points in the film.")
@latent_options
def command(
    run: Path | None,
    points: tuple[str, ...],
    mask: Path | None,
    seed: int | None,
    trunc: float | None,
    label: int | None,
    recipe: str,
    steps: int | None,
    lr: float | None,
    settings: tuple[str, ...],
    name: str,
    film: Path | None,
    fps: int | None,
    back: bool,
    marks: bool,
    network: str | None,
    outdir: Path,
    to: Path | None,
    device: str,
) -> None:
    """Drag points of the picture of RUN to where they shall be, as DragGAN does: the folder of one result, tuned or
    not, or a file of latents; the newest run in --outdir by default. With --seed a sample of the generator is dragged
    (--trunc, 0.7 by default, and --class are for it).

    x is counted from the left and y from the top; the middle of the first pixel is 0,0. With --mask, what is black in
    it is held where it is. The picture is written as PNG and with its latents (safetensors), from which edits and
    drags go on; NAME.points.png shows the points before and after, NAME.json tells how far they came. Ctrl-C ends the
    drag, and writes what it has reached.

    \b
    Example:
      latentopt drag out/anna --point 30,40:34,40
      latentopt drag out/anna --point 45%,60%:50%,60% --point 20,30:20,30 --mask face.png
      latentopt drag --seed 7 --point 32,44:32,40 --film drag.webp --marks
      latentopt edit out/anna/dragged/anna/dragged.safetensors --do smile=+2
    """
    asked = asked_film(film, fps, back)
    if marks and asked is None:
        raise UsageError("--marks is of a film: add --film NAME.webp")
    if seed is not None and run is not None:
        raise UsageError("either a result or --seed, not both")
    if seed is None and (trunc is not None or label is not None):
        raise UsageError("--trunc and --class are of a sample: add --seed 7")
    if trunc is not None and not math.isfinite(trunc):
        raise UsageError(f"--trunc must be a finite number, not {trunc}")
    from latentopt.api import Recipe, drag_latent, parse_point, read_latent, read_mask
    from latentopt.files.outputs import check_free, workplace

    given = {"steps": steps, "lr": lr}
    method = Recipe.load(recipe).override(
        settings, {("stages", 0, key): value for key, value in given.items() if value is not None}
    )
    if seed is None:
        generator, sources, root = find_latents(
            [] if run is None else [run], outdir, network, device, lambda root: check_free(to or root / "dragged")
        )
        if len(sources) > 1:
            names = ", ".join(source.name for source in sources[:5])
            raise UsageError(f"points are of one picture, and there are {len(sources)}: name one of them ({names})")
        latent = read_latent(sources[0], generator)
    else:
        check_free(to or outdir / "dragged")
        generator, root = load_network(network or "portraits", device), outdir
        latent = _sample(generator, seed, 0.7 if trunc is None else trunc, label)
    drags = [parse_point(text, generator.resolution) for text in points]
    moving = None if mask is None else read_mask(mask, generator)
    with workplace(to or root / "dragged") as folder, interruptible():
        made = drag_latent(generator, latent, drags, folder, moving, method, name=name, film=asked, marks=marks)
    click.echo(escape_controls(f"{_outcome(made.last)}: {made.picture}"))
    if made.stopped:
        raise KeyboardInterrupt


def _sample(generator: Generator, seed: int, psi: float, label: int | None) -> Latent:
    from latentopt.api import Latent, seeded_inputs

    return Latent(f"seed{seed:04d}", seeded_inputs(generator, seed, psi, label))


def _outcome(last: DragStep) -> str:
    if last.arrived:
        return f"all points arrived in {last.step} steps"
    return f"after {last.step} steps the farthest point is {last.distances.max():.2g} pixels from its target"
