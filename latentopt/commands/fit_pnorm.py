"""`latentopt fit-pnorm`: measure a generator's P-norm statistics, or take over existing ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    from latentopt.statistics.pnorm import PNorm


@click.command()
@shared.network()
@click.option("--samples", type=Count(), default="1e6", show_default=True, help="Codes to draw.")
@shared.seed()
@click.option("--batch", type=Count(), default="10000", show_default=True, help="Codes a batch.")
@shared.out()
@click.option("--npz", type=UserPath(path_type=Path), help="Take over X_mean, X_comp, X_stdev instead of sampling.")
@click.option("--figure", type=UserPath(path_type=Path), help="Draw the distributions in W, P and P-norm (PNG).")
@click.option("--shard", type=Shard(), help="Draw only every N-th batch, from the i-th (0 to N-1); see --merge.")
@click.option("--merge", is_flag=True, help="Merge the finished shards beside the output.")
@click.option("--prior", is_flag=True, help="Also fit the linear prior that --init linear starts from; minutes.")
@click.option("--prior-samples", type=Count(), default="20000", show_default=True, help="Pictures to draw for it.")
@click.option(
    "--prior-net",
    type=click.Choice(["auto", "bundled", "lpips-vgg", "lpips-alex"]),
    default="auto",
    show_default=True,
    help="The network of its features; auto: the one that the perceptual term takes.",
)
@click.option("--prior-weights", type=UserPath(), help="torchvision's weights of that network, not to download them.")
@click.option("--overwrite", is_flag=True, help="Replace the output file, whatever it holds.")
@shared.device()
@shared.quiet()
def command(
    network: str,
    samples: int,
    seed: int,
    batch: int,
    out: Path | None,
    npz: Path | None,
    figure: Path | None,
    shard: tuple[int, int] | None,
    merge: bool,
    prior: bool,
    prior_samples: int,
    prior_net: str,
    prior_weights: str | None,
    overwrite: bool,
    device: str,
    quiet: bool,
) -> None:
    """Measure a generator's latent distribution: the P-norm statistics that --space pnorm+ needs.

    Draws codes, undoes the mapping's last leaky ReLU and finds the principal components. A killed fit goes on where it
    was; a finished one is not repeated. By default they are kept in pnorm_stats/GENERATOR.safetensors.

    \b
    Example:
      latentopt fit-pnorm --samples 1e6
      latentopt fit-pnorm --network ffhq.pkl --figure ffhq-pnorm.png
      latentopt fit-pnorm --network ffhq.pkl --npz ffhq_PCA.npz
      latentopt fit-pnorm --network ffhq.pkl --prior
    """
    if sum((npz is not None, shard is not None, merge)) > 1:
        raise UsageError("--npz, --shard and --merge exclude one another")
    if (figure is not None or prior) and shard is not None:
        option = "--prior" if figure is None else "--figure"
        raise UsageError(f"{option} needs the whole statistics: use it with --merge, not with --shard")
    if out is not None and out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: statistics are written as .safetensors")
    for path in (out or Path("pnorm_stats/x.safetensors"), figure):
        check_output(path)

    from latentopt.api import kept_pnorm, merge_pnorm, take_over_pnorm
    from latentopt.statistics.pnorm import PNORM

    generator = load_network(network, device)
    out = out or PNORM.new_path(generator)
    with plain_warnings():
        existing = None if overwrite else kept_pnorm(out, generator)
        if npz is not None:
            pnorm = take_over_pnorm(generator, npz, out, seed)
        elif merge:
            pnorm = merge_pnorm(generator, out)
        elif existing is not None and (existing.n, existing.seed) == (samples, seed):
            click.echo(escape_controls(f"already fitted: {out}"))
            pnorm = existing
        else:
            fitted = measured(generator, out, samples, seed, batch, shard, quiet)
            if isinstance(fitted, Path):
                click.echo(escape_controls(f"shard        {fitted}"))
                click.echo("when all are there: the same command with --merge, not --shard")
                return
            pnorm = fitted
    click.echo(escape_controls(summary(pnorm, generator, out)))
    if figure is not None:
        from latentopt.statistics.pnorm_figure import draw_figure

        draw_figure(generator, pnorm, figure)
        click.echo(escape_controls(f"figure       {figure}"))
    if prior:
        from latentopt.commands.fit_prior import add_prior
        from latentopt.statistics.linear_prior import prior_path

        add_prior(
            generator,
            pnorm,
            prior_path(out),
            samples=prior_samples,
            net=prior_net,
            weights=prior_weights,
            seed=seed,
            overwrite=overwrite,
            quiet=quiet,
        )


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                click.echo(escape_controls(f"warning: {warning.message}"), err=True)


def measured(
    generator: Generator, out: Path, samples: int, seed: int, batch: int, shard: tuple[int, int] | None, quiet: bool
) -> PNorm | Path:
    """The statistics, or the file of a shard's moments, drawn under a progress line."""
    from contextlib import ExitStack

    from latentopt.api import measure_pnorm
    from latentopt.commands.progress import Progress

    progress = Progress(samples, "fit-pnorm", unit="code", quiet=quiet)
    with ExitStack() as stack:

        def start(done: int, total: int) -> None:
            progress.total, progress.done, progress.before = total, done, done
            stack.enter_context(progress)
            if done:
                progress.note(f"going on from {done:,} codes")

        def kept(count: int) -> None:
            click.echo(f"{count:,} codes are kept; the same command goes on from there", err=True)

        return measure_pnorm(
            generator,
            out,
            samples,
            seed=seed,
            batch=batch,
            shard=shard,
            on_start=start,
            on_progress=progress.advance,
            on_kept=kept,
        )


def summary(pnorm: PNorm, generator: Generator, out: Path) -> str:
    """What was measured, for people."""
    v = pnorm.whiten(generator.w_avg.detach().cpu().double())  # [C]
    beyond = (v.abs() > 2).double().mean().item()
    lines = {
        "generator": f"{generator.name} ({generator.fingerprint})",
        "codes": "unknown" if pnorm.n is None else f"{pnorm.n:,}, seed {pnorm.seed}",
        "std": f"{pnorm.std[0].item():.4g} to {pnorm.std[-1].item():.4g}, "
        f"condition number {pnorm.condition_number:.3g}",
        "components": f"{pnorm.components_for(0.99)} of {len(pnorm.std)} hold 99 % of the variance",
        "w_avg": f"mean square {v.square().mean().item():.4g} in P-norm (a typical code: 1), "
        f"{100 * beyond:.0f} % of its coordinates beyond 2 std",
        "statistics": str(out),
    }
    return "\n".join(f"{key:<12} {text}" for key, text in lines.items())
