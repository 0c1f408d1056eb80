"""latentopt compare: methods on the same images, measured alike, on one page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.batches import load_network, low_memory_option
from latentopt.commands.preflight import Warnings, notes_told, picture_check, preflight_option
from latentopt.errors import InversionFailed
from latentopt.files.outputs import check_free
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.evaluation.comparison import Callbacks, Comparison, Work

RECIPES = "sg2,i2s,ii2s,pti,wrangan,hybrid-e4e"


@click.command("compare", short_help="Compare methods on the same images: one report.html.")
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--recipes", default=RECIPES, show_default=True, help="Recipes' names or TOML files, joined by commas.")
@click.option("--network", default="portraits", show_default=True, help="Generator: a file, or a bundled one's name.")
@click.option(
    "--dial", "dials", multiple=True, help="Also a curve of one setting: clip, w-to-w+ or penalty. Repeatable."
)
@click.option("--count", default=4, show_default=True, type=click.IntRange(1), help="Sample pictures, if no IMAGES.")
@click.option(
    "--steps", type=click.IntRange(1), help="At most so many steps a stage (quicker, and no longer the method)."
)
@click.option("--do", "edits", multiple=True, metavar="NAME=STRENGTH", help="Edits in the strips, as smile=+2.")
@click.option("--directions", "directions_file", type=click.Path(), help="Directions file; by default what is at hand.")
@click.option(
    "--judge", "judge_name", help="Judge: a bundled name, a file, or package.module:function, whose code is run."
)
@click.option("--pose", default="yaw", show_default=True, help="Attribute and direction of the pose response.")
@click.option(
    "--metrics", default="perceptual", show_default=True, help="Perceptual distances (see latentopt evaluate)."
)
@click.option("--lec", default=2, show_default=True, type=click.IntRange(0), help="Images inverted again for LEC.")
@click.option(
    "--outdir", default="compared", show_default=True, type=click.Path(path_type=Path), help="Folder of the results."
)
@click.option("--seed", default=0, show_default=True, type=int, help="Random seed.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@low_memory_option
@preflight_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    images: tuple[str, ...],
    recipes: str,
    network: str,
    dials: tuple[str, ...],
    count: int,
    steps: int | None,
    edits: tuple[str, ...],
    directions_file: str | None,
    judge_name: str | None,
    pose: str,
    metrics: str,
    lec: int,
    outdir: Path,
    seed: int,
    device: str,
    dtype: str,
    low_memory: bool,
    preflight: bool | None,
    quiet: bool,
) -> int:
    """Run recipes on the same IMAGES and seeds (files, folders, globs; the bundled samples when none is named).

    Each recipe gets a folder of results under --outdir, as from latentopt invert; what is finished is not done again.
    Then all are measured alike, and report.html shows tables, plots and the pictures side by side: a single file that
    needs nothing else. comparison.json has the figures.

    \b
    Examples:
      latentopt compare --recipes i2s,ii2s,pti
      latentopt compare photos/ --network ffhq.pkl --recipes ii2s,mine.toml --dial clip
    """
    check_free(outdir)

    from latentopt.api import compare, find_images, load_attribute_judge, load_directions, load_recipes, parse_edit
    from latentopt.evaluation.dial import find_dial

    methods = load_recipes(_names(recipes), steps)
    for dial in dials:
        find_dial(dial)
    wanted = [parse_edit(text) for text in edits]
    sources = _pictures(images, count)
    every_step = sum(stage.steps + 1 for method in methods.values() for stage in method.stages)
    found = len(find_images(sources))
    generator = load_network(network, device, dtype, low_memory=low_memory)
    warnings = Warnings()
    comparison = compare(
        generator,
        sources,
        methods,
        out=outdir,
        seed=seed,
        look=notes_told(picture_check(generator, found, every_step, preflight, warnings)),
        steps=steps,
        dials=dials,
        edits=wanted,
        directions=None if directions_file is None else load_directions(directions_file, generator),
        judge=None if judge_name is None else load_attribute_judge(judge_name, generator.device),
        pose=pose,
        metrics=_names(metrics),
        lec=lec,
        dtype=dtype,
        optional=_is_default("recipes"),
        settings=[("command", shlex.join(["latentopt", *sys.argv[1:]]))],
        callbacks=_callbacks(quiet),
    )
    warnings.report()
    _print(comparison)
    return InversionFailed.exit_code if comparison.failed else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _is_default(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.DEFAULT


def _callbacks(quiet: bool) -> Callbacks:
    from latentopt.api import Callbacks
    from latentopt.commands.batches import watched

    def say(text: str) -> None:
        click.echo(escape_controls(text), err=True)

    def watch(work: Work, images: int, steps: int, name: str) -> None:
        watched(work, images, steps=steps, verb=name, quiet=quiet)

    return Callbacks(
        watch=watch,
        on_note=say,
        on_part=lambda method, part: None if quiet else say(f"measuring {method}: {part}"),
    )


def _pictures(images: tuple[str, ...], count: int) -> list[str]:
    """The images that are named, or the first of the bundled samples."""
    from latentopt.commands.invert import images_of
    from latentopt.files.resources import PACKAGE

    if images:
        return images_of(images)
    samples = sorted((PACKAGE / "bundled" / "samples").glob("portrait-*.png"))[:count]
    click.echo(f"no image named: comparing on the first {len(samples)} bundled sample portraits", err=True)
    return [str(path) for path in samples]


def _print(comparison: Comparison) -> None:
    from rich.console import Console

    from latentopt.report.assemble import terminal_table
    from latentopt.report.comparison_files import FIGURES, PAGE

    Console(width=None if Console().is_terminal else 140).print(terminal_table(comparison.compared))
    click.echo(escape_controls(f"{comparison.outdir / PAGE} (the figures: {FIGURES})"))
