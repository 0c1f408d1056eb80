"""`latentopt fit-pnorm --prior`: the linear prior, measured after the P-norm statistics and kept beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    from contextlib import ExitStack

    from latentopt.api import measure_prior
    from latentopt.commands.progress import Progress

    progress = Progress(samples, "prior", unit="sample", quiet=quiet)
    with ExitStack() as stack:
        prior, made = measure_prior(
            generator,
            pnorm,
            out,
            samples=samples,
            net=net,
            weights=weights,
            seed=seed,
            overwrite=overwrite,
            on_start=lambda: stack.enter_context(progress),
            on_progress=progress.advance,
        )
    if not made:
        click.echo(escape_controls(f"already fitted: {out}"))
    for key, text in summary(prior, out).items():
        click.echo(escape_controls(f"{key:<12} {text}"))


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
