"""latentopt directions: find directions for a generator, and list those at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network
from latentopt.commands.numbers import Count
from latentopt.commands.paths import UserPath
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.outputs import check_output
from latentopt.files.text import escape_controls, to_run
from latentopt.registry import COORDINATES

if TYPE_CHECKING:
    from latentopt.editing.direction import Direction

ONLY = dict.fromkeys(("labels", "folders", "run", "name"), ("interfacegan",)) | {
    "attributes": ("interfacegan", "ganalyze"),
    "samples": ("interfacegan", "ganspace"),
    "steps": ("ganalyze",),
    "layer": ("ganspace",),
}


@click.group("directions", short_help="Find directions for editing, and list them.")
def command() -> None:
    """Directions of a generator's latent space that change one thing in the picture.

    \b
    Example:
      latentopt directions list
      latentopt directions find --method ganspace
    """


@command.command("find")
@click.option(
    "--method", type=click.Choice(["interfacegan", "ganalyze", "ganspace", "sefa"]), required=True, help="How."
)
@shared.network()
@click.option("--space", type=click.Choice(list(COORDINATES)), default="w", show_default=True, help="Where.")
@click.option("--layers", help="Rows of ws that the directions move, such as 0-6.")
@click.option("--samples", type=Count(), help="Samples to draw.  [default: 5000 to be judged, 1e5 for ganspace]")
@shared.judge(default="portraits", show_default=True)
@click.option("--labels", type=UserPath(path_type=Path), help="Labels in a CSV: picture,attribute,... (see below).")
@click.option("--folders", nargs=2, type=UserPath(path_type=Path), help="Labels by two folders: with it, without it.")
@click.option("--run", type=UserPath(path_type=Path), help="The inversions that --labels names.")
@click.option(
    "--trunc", type=float, default=0.7, show_default=True, help="Truncation of the pictures of latentopt sample."
)
@click.option("--attributes", help="Those to find, joined by commas; all by default.")
@click.option("--name", help="Name of the direction of --folders; by default that of the first folder.")
@click.option(
    "--condition",
    default="entangled",
    show_default=True,
    help="What each is made independent of: none, all, entangled, or names joined by commas.",
)
@click.option("--steps", type=Count(), help="Optimiser steps of ganalyze, for each attribute.  [default: 200]")
@click.option("--components", type=Count(), default="10", show_default=True, help="Directions of ganspace and sefa.")
@click.option("--layer", help="GANSpace of this layer's output instead of w, such as b8.conv1.")
@shared.stats()
@click.option("--class", "label", type=int, default=0, help="Class label, for generators that take labels.")
@shared.seed()
@shared.out()
@click.option("--sheet/--no-sheet", default=True, show_default=True, help="Draw what they do, beside the file.")
@shared.device()
@shared.quiet()
def find(method: str, network: str, out: Path | None, sheet: bool, device: str, quiet: bool, **options: Any) -> None:
    """Find directions and keep them where latentopt edit looks for them; a file that is there already is added to.

    interfacegan needs labels: read by a judge from the generator's samples; or in a table, whose first column names
    pictures of latentopt sample (seed0012.png) or inversions of --run; or two folders of such pictures or inversions.
    ganalyze learns from the gradient of a judge, which takes longer and drags less along. ganspace and sefa need
    neither, but what they find has to be looked at: the sheet shows each at -2 to 2. By default the file is
    directions/GENERATOR-METHOD.safetensors.

    A judge package.module:function is imported and run: name your own code only.

    \b
    Example:
      latentopt directions find --method interfacegan --attributes smile,yaw
      latentopt directions find --method interfacegan --network cats.pkl --folders tabby plain
      latentopt directions find --method ganalyze --space w+ --attributes smile --layers 2-5
      latentopt directions find --method ganspace --space p-norm
      latentopt directions find --method sefa --layers 0-3
    """
    _check(method, options)
    check_output(out or Path("directions/x.safetensors"))

    from latentopt.api import add_directions, draw_sheet, find_by, kept_directions
    from latentopt.editing.files import DIRECTIONS

    generator = load_network(network, device, "float32", False)
    out = out or DIRECTIONS.new_path(generator, f"-{method}.safetensors")
    kept_directions(out, generator)  # a file that cannot be added to is refused before the work
    attributes = options.pop("attributes")
    found = find_by(
        generator,
        method,
        attributes=None if attributes is None else [name.strip() for name in attributes.split(",")],
        watch=partial(_watch, quiet),
        on_note=lambda text: click.echo(escape_controls(text), err=True),
        **options,
    )
    add_directions(out, found, generator)
    _print([(direction, out) for direction in found])
    if sheet:
        click.echo(escape_controls(f"what they do at -2 to 2: {draw_sheet(generator, found, out)}"))


@contextmanager
def _watch(quiet: bool, total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
    from latentopt.commands.progress import Progress

    with Progress(total, label, unit=unit, quiet=quiet) as progress:
        yield progress.advance


def _check(method: str, options: dict[str, Any]) -> None:
    """Options that go with another method, or exclude one another."""
    for name, methods in ONLY.items():
        if options[name] and method not in methods:
            raise UsageError(f"--{name} goes with --method {' or '.join(methods)}")
    if options["labels"] and options["folders"]:
        raise UsageError("--labels and --folders exclude one another")
    if options["run"] and not options["labels"]:
        raise UsageError("--run names the inversions of a table: add --labels TABLE.csv")
    if options["name"] and not options["folders"]:
        raise UsageError("--name goes with --folders; a table names its attributes itself")


@command.command("channels")
@shared.network()
@shared.judge(default="portraits", show_default=True)
@click.option("--attribute", required=True, help="What the channels are to move, as the judge names it.")
@click.option("--samples", type=Count(), default="2000", show_default=True, help="Samples to draw.")
@click.option(
    "--candidates", type=Count(), default="1500", show_default=True, help="Channels to move, best scores first."
)
@click.option("--top", type=Count(), default="10", show_default=True, help="Channels to print.")
@click.option("--class", "label", type=int, default=0, help="Class label, for generators that take labels.")
@shared.seed()
@shared.device()
@shared.quiet()
def channels(network: str, judge: str, attribute: str, device: str, quiet: bool, **options: Any) -> None:
    """Look for channels of the style space that move one attribute, best first.

    score: how far samples with most and with least of it differ in the channel, in deviations; what is only found
    with the attribute scores as well. So the channels are moved, one at a time, by 3 of their deviations.
    response: what that does to the attribute, in its deviations over the samples (binary ones: of their log-odds).
    drift: the same of the other attribute that moves most, and its name.

    A judge package.module:function is imported and run: name your own code only.

    \b
    Example:
      latentopt directions channels --attribute smile
      latentopt edit --do s:b32.conv1:45=+5
    """
    from latentopt.api import find_channels

    generator = load_network(network, device, "float32", False)
    found = find_channels(generator, judge, attribute, watch=partial(_watch, quiet), **options)
    click.echo(f"{'channel':<24}{'score':>8}{'response':>10}{'drift':>8}")
    for one in found:
        text = f"{one.name:<24}{one.score:>+8.2f}{one.response:>+10.2f}{one.drift:>8.2f}  {one.drifting}"
        click.echo(escape_controls(text.rstrip()))
    if not any(one.noticeable for one in found):
        text = f"no single channel moves {attribute} noticeably; a direction may: latentopt directions find"
        click.echo(escape_controls(text), err=True)


@command.command("list")
@click.argument("file", required=False, type=UserPath())
@shared.network()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(file: str | None, network: str, as_json: bool) -> None:
    """List the directions in FILE, or all that latentopt edit finds for a generator.

    Looked for beside the generator's own file, in directions/ and among the bundled ones.

    \b
    Example:
      latentopt directions list
      latentopt directions list directions/cats-sefa.safetensors
    """
    from latentopt.checkpoints.model_files import resolve
    from latentopt.editing.files import DIRECTIONS, directions_at_hand, listed_directions

    if file is not None:
        path = resolve(file, "directions")
        listed, named = listed_directions(path, lambda: load_network(network, "cpu", "float32", False))
        found = [(direction, path) for direction in listed]
        if not named:
            text = f"{path}: does not say which generator it is for; the commands that edit take it with --force"
            click.echo(escape_controls(text), err=True)
    else:
        found = list(directions_at_hand(load_network(network, "cpu", "float32", False)))
        if not found:
            raise CheckpointError(f"no directions of {network} at hand; run {to_run(DIRECTIONS.command, network)}")
    if as_json:
        from latentopt.files.storage import to_json

        click.echo(to_json([_entry(direction, path) for direction, path in found], indent=2))
    else:
        _print(found)


def _entry(direction: Direction, path: Path) -> dict[str, Any]:
    fields = ("name", "space", "layers", "method", "score", "generator", "fingerprint", "about")
    return {field: getattr(direction, field) for field in fields} | {"file": str(path)}


def _print(found: list[tuple[Direction, Path]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from latentopt.editing.layers import layers_text

    columns = ("direction", "space", "layers", "method", "score", "response", "drift", "independent of")
    table = Table(*columns, Column("file", overflow="fold"))
    for direction, path in found:
        others = direction.about.get("independent_of")
        names = ", ".join(map(str, others)) if isinstance(others, list) else ""
        figures = (direction.score, direction.about.get("response"), direction.about.get("drift"))
        cells = (
            direction.name,
            direction.space,
            layers_text(direction.layers),
            direction.method,
            *(f"{figure:.2f}" if isinstance(figure, int | float) else "" for figure in figures),
            names,
            str(path),
        )
        table.add_row(*(escape(escape_controls(cell)) for cell in cells))
    Console(width=None if Console().is_terminal else 160).print(table)
