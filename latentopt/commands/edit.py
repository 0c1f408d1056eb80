"""latentopt edit: change what is in inverted images."""

from __future__ import annotations

from pathlib import Path

import click

from latentopt.commands import shared
from latentopt.commands.film_options import asked_film, film_options
from latentopt.commands.latent_options import find_latents, latent_options
from latentopt.commands.move_options import asked_move, move_for, move_options
from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError
from latentopt.files.text import escape_controls


@click.command("edit", short_help="Edit inverted images along directions.")
@click.argument("run", required=False, type=UserPath(exists=True, path_type=Path))
@click.option(
    "--do", "edits", multiple=True, metavar="NAME=STRENGTH", help="An edit, such as smile=+2; several follow."
)
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="NAME=A..B", help="A strip, such as yaw=-2..2 or yaw=-2..2:9."
)
@click.option("--layers", help="Rows of ws to move, such as 0-6, instead of the directions' own.")
@shared.directions()
@shared.force_directions()
@click.option("--explain", is_flag=True, help="Refined results: also show the flow of each edit and what it moved.")
@click.option("--animate", is_flag=True, help="Also write each sweep as a film (WebP).")
@film_options
@click.option("--frames", type=click.IntRange(2, 10_000), help="Pictures of the film for each edit.  [default: 24]")
@move_options
@latent_options
def command(
    run: Path | None,
    edits: tuple[str, ...],
    sweeps: tuple[str, ...],
    layers: str | None,
    files: tuple[str, ...],
    force: bool,
    explain: bool,
    animate: bool,
    film: Path | None,
    fps: int | None,
    back: bool,
    frames: int | None,
    rotate: float | None,
    translate: tuple[float, float] | None,
    network: str | None,
    outdir: Path,
    to: Path | None,
    device: str,
) -> None:
    """Move the images of RUN along directions: the folder of an inversion, tuned or not, or a file of latents, ours or
    another tool's (.npz, .npy, .pt, .safetensors). Without an edit they are drawn as they are.

    The newest run in --outdir by default. Strengths are standard deviations: of the generator's samples along the
    direction or, for a learned direction, of what it is named after. latentopt directions list names what there is.
    s:LAYER:NUMBER is one channel of the style space; latentopt directions channels looks for some.
    Edits follow one another, sweeps come after all of them. Every picture is written as PNG and with its latents
    (safetensors), from which edits can go on; a sheet shows all. A result of --refine is drawn through its refiner. A
    StyleGAN3 generator also draws them turned and shifted (--rotate, --translate), from where they lie.

    \b
    Example:
      latentopt edit --do smile=+2 --do yaw=-1
      latentopt edit out/anna --sweep yaw=-2..2:9 --animate
      latentopt edit out/tuned-pti --do beard=1.5@0-4
      latentopt edit --do s:b32.conv1:45=+5
      latentopt edit out/edits/anna/yaw+2.safetensors --do light_direction=1
      latentopt edit latents.pt --network ffhq.pkl
      latentopt edit out/anna --rotate 20 --translate 0.1,0
      latentopt edit out --do yaw=1.5 --explain
      latentopt edit out/anna --do yaw=1 --do smile=+2 --film anna.mp4 --back
    """
    asked_for = asked_film(film, fps, back, frames=frames)
    if asked_for is not None and not edits:
        raise UsageError("--film shows edits: add --do NAME=STRENGTH (a sweep: --animate)")
    from latentopt.api import (
        Sequences,
        check_films,
        edit_latents,
        given_or_found_directions,
        parse_edit,
        parse_layers,
        parse_sweep,
        read_latent,
        with_channels,
    )
    from latentopt.files.outputs import check_free, workplace

    done, swept = [parse_edit(text) for text in edits], [parse_sweep(text) for text in sweeps]
    rows, move = None if layers is None else parse_layers(layers), asked_move(rotate, translate)
    if animate and not swept:
        raise UsageError("--animate shows a sweep: add --sweep NAME=-2..2")
    generator, sources, root = find_latents(
        [] if run is None else [run], outdir, network, device, lambda root: check_free(to or root / "edits")
    )
    check_films(asked_for, len(sources))
    names = [edit.name for edit in [*done, *(edit for sweep in swept for edit in sweep)]]
    known_directions = with_channels(given_or_found_directions(generator, files, force), names, generator)
    asked = Sequences(done, swept, known_directions, rows, move_for(generator, move))
    if not done and not swept and move is None:
        known = ", ".join(asked.directions) or "none at hand (latentopt directions find)"
        text = f"no edit named: drawing the latents as they are. --do NAME=STRENGTH edits; names: {known}"
        click.echo(escape_controls(text), err=True)
    asked.check(generator)
    with workplace(to or root / "edits") as folder:
        written, sheet = edit_latents(
            generator,
            (read_latent(source, generator) for source in sources),
            asked,
            folder,
            animate,
            on_note=lambda note: click.echo(escape_controls(note), err=True),
            explain=explain,
            film=asked_for,
        )
    click.echo(escape_controls(f"{written} pictures in {folder}/ (on a sheet: {sheet.name})"))
