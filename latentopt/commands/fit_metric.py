"""latentopt fit-metric: measure how strongly a generator's pictures change with its latents and weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network
from latentopt.commands.numbers import Count, Shard
from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError
from latentopt.files.outputs import check_output
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.protocols import Generator
    from latentopt.statistics.metric import Metric


@click.command()
@shared.network()
@click.option(
    "--net",
    type=click.Choice(["auto", "bundled", "lpips-vgg", "lpips-alex", "none"]),
    default="auto",
    show_default=True,
    help="The network of the image distance; auto: the one that the perceptual term takes; none: pixels alone.",
)
@click.option("--size", type=click.IntRange(min=16), help="Height of the images that it compares, as in the term.")
@click.option("--weights", type=UserPath(), help="torchvision's weights of that network, not to download them.")
@click.option(
    "--layers",
    default="convs",
    show_default=True,
    help="Weights to measure beside the latents: all, convs, convs:N, or globs, joined by commas.",
)
@click.option("--probes", type=Count(), default="640", show_default=True, help="Pictures to draw.")
@shared.seed()
@click.option("--batch", type=Count(), default="8", show_default=True, help="Pictures at once: speed and memory only.")
@click.option("--shard", type=Shard(), help="Draw only every N-th batch, from the i-th (0 to N-1); see --merge.")
@click.option("--merge", is_flag=True, help="Merge the finished shards beside the output.")
@shared.out()
@click.option("--overwrite", is_flag=True, help="Replace the output file, whatever it holds.")
@shared.dtype()
@shared.device()
@shared.quiet()
def command(
    network: str,
    net: str,
    size: int | None,
    merge: bool,
    out: Path | None,
    device: str,
    dtype: str,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure a generator's metric: how strongly its pictures change with each latent and each weight.

    Spaces with `metric = true`, such as those of the recipes fast and fast-tune, are optimised in its coordinates, and
    need far fewer steps there. It is measured from the generator's own samples, one backward pass a picture, for one
    image distance. A killed fit goes on where it was; a finished one is not repeated. A recipe that needs a metric
    measures it by itself where there is none. By default it is kept in pnorm_stats/GENERATOR.metric.safetensors.

    \b
    Example:
      latentopt fit-metric
      latentopt fit-metric --network ffhq.pkl --probes 320
      latentopt fit-metric --network ffhq.pkl --net lpips-alex --layers all
    """
    if settings["shard"] is not None and merge:
        raise UsageError("--shard and --merge exclude one another")
    if out is not None and out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: a metric is written as .safetensors")
    check_output(out or Path("pnorm_stats/x.safetensors"))

    from latentopt.api import merge_metric
    from latentopt.statistics.metric_files import metric_path

    generator = load_network(network, device, dtype, False)
    out = out or metric_path(generator, net, size)
    if merge:
        show(merge_metric(generator, out), generator, out)
        return
    metric, made = measured(generator, out, quiet, net=net, size=size, **settings)
    if isinstance(metric, Path):
        click.echo(f"shard        {escape_controls(str(metric))}")
        click.echo("when all are there: the same command with --merge, not --shard")
        return
    if not made:
        click.echo(f"already fitted: {escape_controls(str(out))}")
    show(metric, generator, out)


def measured(generator: Generator, out: Path, quiet: bool, **settings: Any) -> tuple[Metric | Path, bool]:
    """The metric, or the file of a shard's moments, drawn under a progress line; and whether that was done now."""
    from contextlib import ExitStack

    from latentopt.api import measure_metric
    from latentopt.commands.progress import Progress

    progress = Progress(settings["probes"], "fit-metric", unit="picture", quiet=quiet)
    with ExitStack() as stack:

        def start(done: int, total: int) -> None:
            progress.total, progress.done, progress.before = total, done, done
            stack.enter_context(progress)
            if done:
                progress.note(f"going on from {done:,} pictures")

        def kept(count: int) -> None:
            click.echo(f"{count:,} pictures are kept; the same command goes on from there", err=True)

        return measure_metric(generator, out, on_start=start, on_progress=progress.advance, on_kept=kept, **settings)


def show(metric: Metric, generator: Generator, out: Path) -> None:
    """What was measured, for people."""
    from latentopt.statistics.metric_figures import figures

    for key, text in figures(metric, generator, out).items():
        click.echo(escape_controls(f"{key:<12} {text}"))
