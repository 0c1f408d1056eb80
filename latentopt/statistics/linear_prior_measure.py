"""The linear prior as a file: fitted once, checked against what is there, and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from latentopt.protocols import Generator
from latentopt.statistics.kept import kept
from latentopt.statistics.linear_prior import LinearPrior, PooledFeatures
from latentopt.statistics.linear_prior_fit import fit_prior
from latentopt.statistics.pnorm import PNorm


def measure_prior(
    generator: Generator,
    pnorm: PNorm,
    out: Path,
    *,
    samples: int = 20_000,
    net: str = "auto",
    weights: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_start: Callable[[], object] = lambda: None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> tuple[LinearPrior, bool]:
    """Fit the linear prior in the coordinates of `pnorm`, keep it in `out`, and return it with whether it was made now.

    A prior that is there already and that the same fit would give is not fitted again. net, weights: the network of
    the features (`PooledFeatures`). overwrite: replace `out` whatever it is; on_start: called before the work, where
    there is any; on_progress: called with how many more samples are done. On the CPU the generator is left in the
    memory format channels_last. Raises StatisticsError for a file that is no prior of this generator, UsageError for
    too few samples.
    """
    prior = None if overwrite else kept(out, generator, LinearPrior.load)
    pooled = PooledFeatures(generator, net, weights)
    if prior is not None and _is_same(prior, pnorm, pooled.network, samples, seed):
        return prior, False
    on_start()
    if generator.device.type == "cpu":
        generator.set_memory_format(torch.channels_last)  # a quarter faster there
    prior = fit_prior(generator, pnorm, pooled, samples=samples, seed=seed, on_progress=on_progress)
    prior.save(out)
    return prior, True


def _is_same(prior: LinearPrior, pnorm: PNorm, network: str, samples: int, seed: int) -> bool:
    """Whether fitting again would give `prior`."""
    return (
        (prior.card.get("n"), prior.card.get("seed"), prior.network) == (samples, seed, network)
        and prior.components.equal(pnorm.components.float())
        and prior.std.equal(pnorm.std.float())
    )
