"""latentopt edit: change what is in inverted images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.latent_options import FPS, FRAMES, find_latents, latent_options, load_latents, output_folder
from latentopt.commands.terminal import escape_controls
from latentopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from latentopt.editing.direction import Direction
    from latentopt.editing.latents import Latent
    from latentopt.editing.sequence import Edit
    from latentopt.protocols import Generator

ON_SHEET = 16  # images


@click.command("edit", short_help="Edit inverted images along directions.")
@click.argument("run", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--do", "edits", multiple=True, metavar="NAME=STRENGTH", help="An edit, such as smile=+2; several follow."
)
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="NAME=A..B", help="A strip, such as yaw=-2..2 or yaw=-2..2:9."
)
@click.option("--layers", help="Rows of ws to move, such as 0-6, instead of the directions' own.")
@click.option(
    "--directions", "files", multiple=True, metavar="FILE", help="Their files; by default all of the generator's."
)
@click.option("--force", is_flag=True, help="Take directions that were made for another generator.")
@click.option("--animate", is_flag=True, help="Also write each sweep as a film (WebP).")
@latent_options
def command(
    run: Path | None,
    edits: tuple[str, ...],
    sweeps: tuple[str, ...],
    layers: str | None,
    files: tuple[str, ...],
    force: bool,
    animate: bool,
    network: str | None,
    outdir: Path,
    to: Path | None,
    device: str,
) -> None:
    """Move the images of RUN along directions: the folder of an inversion, tuned or not, or a file of saved inputs.

    The newest run in --outdir by default. Strengths are standard deviations of the generator's samples; latentopt
    directions list names what there is. Edits follow one another, sweeps come after all of them. Every picture is written
    as PNG and with its latents (safetensors), from which edits can go on; a sheet shows all.

    \b
    Example:
      latentopt edit --do smile=+2 --do yaw=-1
      latentopt edit out/anna --sweep yaw=-2..2:9 --animate
      latentopt edit out/tuned-pti --do beard=1.5@0-4
      latentopt edit out/edits/anna/yaw+2.safetensors --do light_direction=1
    """
    from latentopt.editing.latents import file_name
    from latentopt.editing.layers import parse_layers
    from latentopt.editing.sequence import choose, parse_edit, parse_sweep

    done, swept = [parse_edit(text) for text in edits], [parse_sweep(text) for text in sweeps]
    rows = None if layers is None else parse_layers(layers)
    if animate and not swept:
        raise UsageError("--animate shows a sweep: add --sweep NAME=-2..2")
    sources, root = find_latents([] if run is None else [run], outdir)
    generator, latents = load_latents(sources, network, device)
    directions = read_directions(generator, files, force)
    if not done and not swept:
        raise UsageError(f"say what to do: --do NAME=STRENGTH; directions: {', '.join(directions) or 'none at hand'}")
    for edit in [*done, *(edit for sweep in swept for edit in sweep)]:
        choose(edit.name, directions)
    steps = [done[: i + 1] for i in range(len(done))] + [[*done, edit] for sweep in swept for edit in sweep]
    with output_folder(to or root / "edits") as folder:
        sheet, names, written = [], [], 0
        for latent in latents:
            pictures = _edit(latent, steps, generator, directions, rows, folder)
            written += len(steps)
            for sweep in swept if animate else ():
                _film(latent, done, sweep, generator, directions, rows, folder)
            if len(sheet) < ON_SHEET:
                sheet.append(pictures)
                names.append(latent.name)
        title = file_name("_".join([*(edit.label for edit in done), *(s[0].name + "-sweep" for s in swept)]))
        _sheet(sheet, names, steps, len(done), folder / f"{title}.png")
        click.echo(escape_controls(f"{written} pictures in {folder}/ (on a sheet: {title}.png)"))


def read_directions(generator: Generator, files: Sequence[str], force: bool) -> dict[str, Direction]:
    """Those of `files`, or all that are at hand for the generator."""
    from latentopt.editing.files import find_directions, load_directions

    if not files:
        return find_directions(generator)
    found: dict[str, Direction] = {}
    for file in files:
        found |= load_directions(file, generator, force)
    return found


def _edit(
    latent: Latent,
    steps: list[list[Edit]],
    generator: Generator,
    directions: Mapping[str, Direction],
    layers: tuple[int, ...] | None,
    folder: Path,
) -> list[Tensor]:
    """Write the pictures of one image; target (where known), reconstruction and edited ones, for the sheet."""
    from latentopt.editing.latents import file_name, save_latent
    from latentopt.editing.pictures import draw
    from latentopt.editing.sequence import apply_edits
    from latentopt.files.outputs import clear_write_errors
    from latentopt.files.storage import write_atomically
    from latentopt.pictures.images import DELTA_FILE

    _warn_of_outputs(latent, generator)
    own = folder / latent.name
    if latent.delta is not None and latent.delta != own / DELTA_FILE:
        with clear_write_errors(own / DELTA_FILE):
            write_atomically(own / DELTA_FILE, lambda temporary: shutil.copyfile(latent.delta, temporary))
    reconstruction = draw(generator, latent.inputs, latent.noise_mode)
    pictures = [reconstruction if latent.target is None else latent.target, reconstruction]
    for edits in steps:
        edited = apply_edits(latent.inputs, edits, directions, layers)
        pictures.append(draw(generator, edited, latent.noise_mode))
        label = file_name("_".join(edit.label for edit in edits))
        held = edited if latent.delta is None else edited.replace(deltas=None)  # they lie beside it
        save_latent(own / label, pictures[-1], held, generator)
    return pictures


def _warn_of_outputs(latent: Latent, generator: Generator) -> None:
    from latentopt.types import REPLACES

    names = [name.removeprefix(REPLACES) for name in latent.inputs.residuals or () if name.startswith(REPLACES)]
    rows = [row for name in names if (row := generator.row_of(name)) is not None]
    if rows:
        text = f"{latent.name}: its file replaces a layer's output; edits of rows 0 to {max(rows)} hardly show"
        click.echo(escape_controls(text), err=True)


def _film(
    latent: Latent,
    done: list[Edit],
    sweep: list[Edit],
    generator: Generator,
    directions: Mapping[str, Direction],
    layers: tuple[int, ...] | None,
    folder: Path,
) -> None:
    from dataclasses import replace

    from latentopt.editing.latents import file_name
    from latentopt.editing.pictures import draw, film_frame, there_and_back
    from latentopt.editing.sequence import apply_edits
    from latentopt.pictures.video import save_video

    first, last = sweep[0].strength, sweep[-1].strength
    frames = []
    for i in range(FRAMES):
        strength = first + (last - first) * i / (FRAMES - 1)
        edited = apply_edits(latent.inputs, [*done, replace(sweep[0], strength=strength)], directions, layers)
        frames.append(film_frame(draw(generator, edited, latent.noise_mode)))
    name = file_name("_".join([*(edit.label for edit in done), sweep[0].name]))
    save_video(there_and_back(frames), folder / latent.name / f"{name}.webp", fps=FPS)


def _sheet(rows: list[list[Tensor]], names: list[str], steps: list[list[Edit]], done: int, path: Path) -> None:
    from latentopt.pictures.contact_sheet import contact_sheet

    headings = [("then " if 0 < i < done else "") + edits[-1].label for i, edits in enumerate(steps)]
    contact_sheet(rows, path, columns=["target", "inversion", *headings], labels=names)
