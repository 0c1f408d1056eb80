"""latentopt compare: methods on the same images, measured alike, on one page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network, low_memory_option
from latentopt.commands.paths import UserPath
from latentopt.commands.preflight import Warnings, notes_told, picture_check, preflight_option
from latentopt.errors import InversionFailed
from latentopt.files.outputs import check_free
from latentopt.files.text import escape_controls
from latentopt.recipe.entries import terms_of

if TYPE_CHECKING:
    from latentopt.evaluation.comparison import Callbacks, Comparison, Work

RECIPES = "sg2,i2s,ii2s,pti,wrangan,hybrid-e4e"


@click.command("compare", short_help="Compare methods on the same images: one report.html.")
@click.argument("images", nargs=-1, type=UserPath())
@click.option(
    "--recipes",
    default=RECIPES,
    show_default=True,
    type=UserPath(within=","),
    metavar="NAMES|FILES",
    help="Recipes' names or TOML files, joined by commas.",
)
@shared.network()
@click.option(
    "--dial", "dials", multiple=True, help="Also a curve of one setting: clip, w-to-w+ or penalty. Repeatable."
)
@click.option("--count", default=4, show_default=True, type=click.IntRange(1), help="Sample pictures, if no IMAGES.")
@shared.steps()
@shared.terms()
@shared.placement()
@shared.recipe_settings()
@click.option("--do", "edits", multiple=True, metavar="NAME=STRENGTH", help="Edits in the strips, as smile=+2.")
@shared.directions()
@shared.force_directions()
@shared.judge()
@shared.pose()
@shared.metrics()
@shared.lec(default=2)
@shared.outdir(default="compared")
@shared.seed()
@shared.device()
@shared.dtype()
@low_memory_option
@preflight_option
@shared.quiet()
def command(
    images: tuple[str, ...],
    recipes: str,
    network: str,
    dials: tuple[str, ...],
    count: int,
    steps: int | None,
    terms: str | None,
    placement: bool,
    settings: tuple[str, ...],
    edits: tuple[str, ...],
    files: tuple[str, ...],
    force: bool,
    judge: str | None,
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
    needs nothing else. comparison.json has the figures. --steps, --terms and --set change every recipe, which then is
    no longer the method that it is named after.

    \b
    Examples:
      latentopt compare --recipes i2s,ii2s,pti
      latentopt compare photos/ --network ffhq.pkl --recipes ii2s,mine.toml --dial clip
    """
    check_free(outdir)

    from latentopt.api import (
        compare,
        find_images,
        given_or_found_directions,
        load_attribute_judge,
        load_recipes,
        parse_edit,
    )
    from latentopt.evaluation.dial import find_dial

    methods = load_recipes(_names(recipes), steps, terms_of(terms), settings, placement)
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
        directions=given_or_found_directions(generator, files, force),
        judge=None if judge is None else load_attribute_judge(judge, generator.device),
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
