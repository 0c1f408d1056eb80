"""latentopt compare: methods on the same images, measured alike, on one page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.errors import InversionFailed, UsageError

if TYPE_CHECKING:
    from latentopt.commands.comparing import Session, Swept
    from latentopt.editing.direction import Direction
    from latentopt.editing.sequence import Edit
    from latentopt.evaluation.comparison import Compared
    from latentopt.inverting.items import Unread
    from latentopt.judge.protocol import AttributeJudge
    from latentopt.protocols import Generator

RECIPES = "sg2,i2s,ii2s,pti,wrangan,hybrid-e4e"
SHOWN = ("yaw", "smile", "glasses")  # edits in the strips, where there are such directions
STRENGTH = 2.0
DIAL_STEPS = 200


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
@click.option("--no-preflight", is_flag=True, help="Do not look first whether pictures suit the generator.")
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
    no_preflight: bool,
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
    from latentopt.commands.batches import load_network
    from latentopt.commands.comparing import Session
    from latentopt.editing.sequence import choose, parse_edit
    from latentopt.evaluation.comparison import load_recipes
    from latentopt.evaluation.dial import find_dial
    from latentopt.files.outputs import check_outdir, locked, sweep

    methods = load_recipes([name.strip() for name in recipes.split(",") if name.strip()], steps)
    turned = [find_dial(kind) for kind in dict.fromkeys(dials)]
    wanted = [parse_edit(text) for text in edits]
    check_outdir(outdir)
    with locked(outdir):
        sweep(outdir)
        generator = load_network(network, device, dtype, False)
        directions = _directions(generator, directions_file)
        for edit in wanted:
            choose(edit.name, directions)
        asked = {"judge": _judge(judge_name, generator), "pose": pose, "metrics": _metrics(metrics, generator)}
        session = Session(generator, outdir, seed, dtype, quiet, directions, asked)
        methods = session.runnable(methods, optional=_is_default("recipes"))
        items = session.read(_pictures(images, generator, count, no_preflight, quiet))
        compared = session.compare(methods, items, lec)
        swept = [session.sweep(dial(generator), items, min(steps or DIAL_STEPS, DIAL_STEPS)) for dial in turned]
        settings = _settings(session, compared, steps, lec)
        _write(session, compared, swept, wanted or _usual(directions), settings)
    return InversionFailed.exit_code if session.failed else 0


def _is_default(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.DEFAULT


def _directions(generator: Generator, path: str | None) -> dict[str, Direction]:
    from latentopt.editing.files import find_directions, load_directions

    return find_directions(generator) if path is None else load_directions(path, generator)


def _judge(name: str | None, generator: Generator) -> AttributeJudge | None:
    from latentopt.judge.protocol import load_attribute_judge

    return None if name is None else load_attribute_judge(name, generator.device)


def _metrics(names: str, generator: Generator) -> tuple[str, ...]:
    """Checked, and their weights had, before the work begins."""
    from latentopt.evaluation.framework import METRICS
    from latentopt.registry import nearest

    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}{nearest(name, list(METRICS))}")
        METRICS[name](generator)
    return found


def _pictures(
    images: tuple[str, ...], generator: Generator, count: int, no_preflight: bool, quiet: bool
) -> list[Unread]:
    from latentopt.commands.invert import notes_told
    from latentopt.commands.preflight import PictureCheck
    from latentopt.files.resources import PACKAGE
    from latentopt.inverting.items import items_of

    if not images:
        samples = sorted((PACKAGE / "bundled" / "samples").glob("portrait-*.png"))[:count]
        images = tuple(map(str, samples))
        click.echo(f"no image named: comparing on the first {len(images)} bundled sample portraits", err=True)
    look = notes_told(None if no_preflight else PictureCheck(generator, quiet))
    return items_of(generator, images, look=look)


def _usual(directions: Mapping[str, Direction]) -> list[Edit]:
    """The strips' edits where none is named: pose, smile and glasses, or the first three there are."""
    from latentopt.editing.sequence import Edit

    names = [name for name in SHOWN if name in directions] or list(directions)[: len(SHOWN)]
    return [Edit(name, STRENGTH) for name in names]


def _settings(session: Session, compared: Sequence[Compared], steps: int | None, lec: int) -> list[tuple[str, str]]:
    from latentopt.evaluation.comparison import AMOUNTS

    evaluation = compared[0].evaluation
    amounts = (
        f"{AMOUNTS.samples} samples of the generator, {AMOUNTS.paths} paths of each kind an image, {AMOUNTS.steps} pictures "
        f"an interpolation, {AMOUNTS.partners} partners an image, LEC on {lec} images, corruption on {AMOUNTS.corruption} "
        "pictures an image"
    )
    return [
        ("command", shlex.join(["latentopt", *sys.argv[1:]])),
        ("images", ", ".join(result.name for result in compared[0].results)),
        ("seed", str(session.seed)),
        ("precision", session.dtype),
        ("steps", "as in the recipes" if steps is None else f"at most {steps} a stage: less than the recipes ask for"),
        ("evaluation", amounts),
        ("judge", str(evaluation.about.get("judge") or "none: no judge reads this generator's domain")),
        ("directions", ", ".join(session.directions) or "none: latentopt directions find makes some"),
    ]


def _write(
    session: Session,
    compared: Sequence[Compared],
    swept: Sequence[Swept],
    edits: Sequence[Edit],
    settings: list[tuple[str, str]],
) -> None:
    from rich.console import Console

    from latentopt.files.outputs import clear_write_errors
    from latentopt.files.storage import write_text
    from latentopt.report.assemble import figures_of, report_of, terminal_table
    from latentopt.report.page import write_report

    page, figures = session.outdir / "report.html", session.outdir / "comparison.json"
    report = report_of(
        compared,
        session.generator,
        edits,
        session.directions,
        dials=swept,
        about={"Settings": settings},
        notes=session.notes,
    )
    write_report(page, report)
    with clear_write_errors(figures):
        write_text(figures, figures_of(compared, swept, settings))
    Console(width=None if Console().is_terminal else 140).print(terminal_table(compared))
    click.echo(f"{page} (the figures: {figures.name})")
