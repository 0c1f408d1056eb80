"""`latentopt fit-pnorm --prior`: the linear prior, measured after the P-norm statistics and kept beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.errors import StatisticsError
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.protocols import Generator
    from latentopt.statistics.linear_prior import LinearPrior
    from latentopt.statistics.pnorm import PNorm


def add_prior(
    generator: Generator,
    pnorm: PNorm,
    out: Path,
    *,
    samples: int,
    net: str,
    weights: str | None,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Fit the prior and write it to `out`, unless it is there; say what it explains."""
    import torch

    from latentopt.commands.progress import Progress
    from latentopt.statistics.linear_prior import PooledFeatures
    from latentopt.statistics.linear_prior_fit import fit_prior

    prior = None if overwrite else read_existing(out, generator)
    features = PooledFeatures(generator, net, weights)
    if prior is not None and is_same(prior, pnorm, features.network, samples, seed):
        click.echo(escape_controls(f"already fitted: {out}"))
    else:
        if generator.device.type == "cpu":
            generator.set_memory_format(torch.channels_last)  # a quarter faster there
        with Progress(samples, "prior", unit="sample", quiet=quiet) as progress:
            prior = fit_prior(generator, pnorm, features, samples=samples, seed=seed, on_progress=progress.advance)
        prior.save(out)
    for key, text in summary(prior, out).items():
        click.echo(escape_controls(f"{key:<12} {text}"))


def read_existing(out: Path, generator: Generator) -> LinearPrior | None:
    """The prior already at `out`. Raises StatisticsError for what a new one must not replace."""
    from latentopt.statistics.linear_prior import LinearPrior

    if not out.exists():
        return None
    try:
        return LinearPrior.load(out, generator)
    except StatisticsError as error:
        raise StatisticsError(f"{error}\n--overwrite replaces the file, --out chooses another") from error


def is_same(prior: LinearPrior, pnorm: PNorm, network: str, samples: int, seed: int) -> bool:
    """Whether fitting again would give `prior`."""
    return (
        (prior.card.get("n"), prior.card.get("seed"), prior.network) == (samples, seed, network)
        and prior.components.equal(pnorm.components.float())
        and prior.std.equal(pnorm.std.float())
    )


def summary(prior: LinearPrior, out: Path) -> dict[str, str]:
    """What was measured, for people."""
    card, r2 = prior.card, prior.r2
    leading = ", ".join(f"{value:.2f}" for value in r2[:5].tolist())
    return {
        "prior": f"{card['n']:,} samples, seed {card['seed']}, features of {prior.network}, ridge {card['ridge']:.3g}",
        "explained": f"{100 * prior.share:.0f} % of the variance in P, cross-validated; R^2 of the first components: "
        f"{leading}; {int((r2 > 0.5).sum())} of {len(r2)} above 0.5",
        "start with": f"--init linear ({out})",
    }
