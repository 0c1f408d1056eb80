"""Sigma as a file: estimated once, checked against what is there, and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from latentopt.errors import StatisticsError
from latentopt.files.schema import conform
from latentopt.protocols import Generator
from latentopt.statistics.kept import REMEDY, kept
from latentopt.statistics.sigma import Sigma
from latentopt.statistics.sigma_fit import SAMPLES, fit_sigma


def kept_sigma(out: Path, generator: Generator) -> Sigma | None:
    """The estimate already at `out`.

    Raises StatisticsError for what a new one must not replace: a sigma that was learned, or another generator's.
    """
    sigma = kept(out, generator, Sigma.load)
    if sigma is not None and (sigma.origin != "estimated" or sigma.fingerprint != generator.fingerprint):
        raise StatisticsError(f"{out}: was learned in a training, not estimated; {REMEDY}")
    return sigma


class Figures(TypedDict):
    """What the card of an estimate says of it."""

    measured: float
    first_order: float
    halves: float | None
    samples: int
    shares: dict[str, float]


def is_whole(sigma: Sigma) -> bool:
    """Whether the card of an estimate has all figures."""
    try:
        figures: Figures = conform(sigma.card, Figures)
    except ValueError:
        return False
    return figures["shares"].keys() >= sigma.tensors.keys()


def measure_sigma(
    generator: Generator,
    out: Path,
    *,
    layers: str = "convs:6",
    samples: int = SAMPLES,
    probes: int = 1,
    amount: float = 0.1,
    features: str = "image",
    damping: float = 0.1,
    seed: int = 0,
    batch: int = 4,
    overwrite: bool = False,
    on_start: Callable[[], object] = lambda: None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> tuple[Sigma, bool]:
    """Estimate sigma, keep it in `out`, and return it with whether it was made now.

    An estimate by the same settings that is there already is not made again. The settings, and what is raised for
    them, are those of `fit_sigma`. overwrite: replace `out` whatever it is; on_start: called before the work, where
    there is any; on_progress: called with how many more samples are done. Raises StatisticsError as `kept_sigma`.
    """
    settings: dict[str, Any] = {
        "layers": layers,
        "samples": samples,
        "probes": probes,
        "amount": amount,
        "features": features,
        "damping": damping,
        "seed": seed,
    }
    sigma = None if overwrite else kept_sigma(out, generator)
    if sigma is not None and is_whole(sigma) and all(sigma.card.get(key) == value for key, value in settings.items()):
        return sigma, False
    on_start()
    sigma = fit_sigma(generator, batch=batch, on_progress=on_progress, **settings)
    sigma.save(out)
    return sigma, True
