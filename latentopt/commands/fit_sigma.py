"""`latentopt fit-sigma`: estimate how far each weight of a generator may be moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network
from latentopt.commands.numbers import Count
from latentopt.errors import UsageError
from latentopt.files.outputs import check_output
from latentopt.files.text import escape_controls, one_line

if TYPE_CHECKING:
    from latentopt.protocols import Generator
    from latentopt.statistics.sigma import Sigma

SMALL_SIGMA = 1e-3  # the paper counts these (its Table 6)
STEADY = 0.9  # least correlation between two halves of the samples


class Positive(click.ParamType):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} is not a finite number above 0", param, ctx)
        return number


@click.command()
@shared.network()
@click.option(
    "--layers",
    default="convs:6",
    show_default=True,
    help="Which weights: all, convs, convs:N (the last N), or globs such as 'synthesis.b64.*', joined by commas.",
)
@click.option("--samples", type=Count(), default="256", show_default=True, help="Pictures to draw.")
@click.option("--probes", type=Count(), default="1", show_default=True, help="Backward passes for each picture.")
@click.option(
    "--features",
    type=click.Choice(["image", "perceptual"]),
    default="image",
    show_default=True,
    help="What the influence of a weight is measured in.",
)
@click.option(
    "--amount",
    type=Positive(),
    default="0.1",
    show_default=True,
    help="Root-mean-square change of a pixel ([-1,1]) by a random draw of all weights.",
)
@click.option("--damping", type=Positive(), default="0.1", show_default=True, help="Bounds sigma of idle weights.")
@shared.seed()
@click.option("--batch", type=Count(), default="4", show_default=True, help="Pictures at once: speed and memory only.")
@shared.out()
@click.option("--overwrite", is_flag=True, help="Replace the output file, whatever it holds.")
@shared.device()
@shared.quiet()
def command(
    network: str,
    out: Path | None,
    overwrite: bool,
    device: str,
    quiet: bool,
    **settings: Any,
) -> None:
    """Estimate sigma: how far each weight of a generator may be moved when it is tuned to an image.

    Draws pictures and measures how strongly they depend on each weight; sigma is the inverse of that, scaled so that a
    random draw of all weights changes the picture by the stated amount. No data, no training. Finished fits are not
    repeated. By default they are kept in sigma/GENERATOR.safetensors.

    \b
    Example:
      latentopt fit-sigma
      latentopt fit-sigma --network ffhq.pkl --layers convs --samples 128
    """
    if out is not None and out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: sigma is written as .safetensors")
    check_output(out or Path("sigma/x.safetensors"))

    from contextlib import ExitStack

    from latentopt.api import measure_sigma
    from latentopt.commands.progress import Progress
    from latentopt.statistics.sigma import SIGMA

    generator = load_network(network, device)
    out = out or SIGMA.new_path(generator)
    progress = Progress(settings["samples"], "fit-sigma", unit="picture", quiet=quiet)
    with ExitStack() as stack:
        sigma, made = measure_sigma(
            generator,
            out,
            overwrite=overwrite,
            on_start=lambda: stack.enter_context(progress),
            on_progress=progress.advance,
            **settings,
        )
    if not made:
        click.echo(f"already fitted: {escape_controls(str(out))}")
    show(sigma, generator, out)


def show(sigma: Sigma, generator: Generator, out: Path) -> None:
    """What was measured, for people: a table of the layers, the amounts, and the file."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from latentopt.statistics.at_hand import first_at_hand
    from latentopt.statistics.sigma import SIGMA

    console, card = Console(), sigma.card
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width to fit
    table = Table(Column("weight", overflow="fold"), box=box.SIMPLE_HEAD)
    for heading in ("number", "5 %", "sigma 50 %", "95 %", f"< {SMALL_SIGMA:g}", "of the change"):
        table.add_column(heading, justify="right")
    for name, row in rows(sigma).items():
        table.add_row(Text(one_line(name)), *row)
    console.print(table)
    lines = {
        "generator": f"{generator.name} ({generator.fingerprint})",
        "amount": f"{card['measured']:.4f} measured, {card['first_order']:.4f} to first order",
        "halves": f"correlation {card['halves'] or 0:.3f} of log sigma between two halves of the "
        f"{card['samples']} samples",
        "sigma": str(out),
    }
    for key, text in lines.items():
        click.echo(escape_controls(f"{key:<12} {text}"))
    if (card["halves"] or 1) < STEADY:
        click.echo("warning: the halves differ: draw more --samples", err=True)
    found = first_at_hand(SIGMA, generator)
    if found is not None and found[1].resolve() != out.resolve():
        click.echo(
            escape_controls(f"note: by default {found[1]} is used, which is {found[0].origin}; name this one"), err=True
        )
    elif found is None:
        click.echo("note: it is found by itself only in ./sigma or beside the generator's file", err=True)


def rows(sigma: Sigma) -> dict[str, list[str]]:
    """Number, quantiles, share of small values, share of the picture's change, for each weight."""
    import numpy as np

    table = {}
    for name, tensor in sigma.tensors.items():
        values = tensor.flatten().numpy()
        quantiles = [f"{q:.3g}" for q in np.quantile(values, [0.05, 0.5, 0.95])]
        small = f"{100 * (values < SMALL_SIGMA).mean():.2f} %"
        table[name] = [f"{values.size:,}", *quantiles, small, f"{100 * sigma.card['shares'][name]:.1f} %"]
    return table
