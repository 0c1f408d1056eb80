"""P-norm statistics as a file: measured, taken over or merged, checked against what is there, and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from latentopt.errors import StatisticsError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.text import to_run
from latentopt.protocols import Generator
from latentopt.statistics.kept import kept
from latentopt.statistics.pnorm import PNorm
from latentopt.statistics.pnorm_fit import PNormFit, draw_codes, merge_shards
from latentopt.statistics.shards import find_shards, follow_fit, keep_fit, partial_path, shard_path
from latentopt.watching.phases import phase, tell

SAMPLES = 100_000  # codes that are drawn where statistics are needed and none are there
CHECK_SAMPLES = 10_000
CHECK_RANGE = (0.8, 1.25)  # mean square of whitened samples, over the half of the components with the largest std


def kept_pnorm(out: Path, generator: Generator) -> PNorm | None:
    """The statistics already at `out`. Raises StatisticsError for what is not this generator's."""
    return kept(out, generator, PNorm.load)


def measure_pnorm(
    generator: Generator,
    out: Path,
    samples: int = 1_000_000,
    *,
    seed: int = 0,
    batch: int = 10_000,
    shard: tuple[int, int] | None = None,
    on_start: Callable[[int, int], object] = lambda done, total: None,
    on_progress: Callable[[int], object] = lambda count: None,
    on_kept: Callable[[int], object] = lambda count: None,
) -> PNorm | Path:
    """Draw codes and keep their statistics in `out`; of a `shard` (i, N) only its moments, whose file is returned.

    What an interrupted call drew is kept beside `out`, and the same call goes on from there. on_start: called with the
    number of codes that are drawn already and that of all; on_progress: with how many more are drawn; on_kept: with how
    many are kept when KeyboardInterrupt ends the call. Raises UsageError for fewer samples than dimensions.
    """
    if samples <= generator.w_dim:
        raise UsageError(f"--samples {samples}: more than w_dim = {generator.w_dim} codes are needed")
    partial = partial_path(out) if shard is None else shard_path(out, shard)
    task = PNormFit(generator, samples, seed=seed, batch=batch, shard=shard or (0, 1), partial=partial)
    follow_fit(task, on_start, on_progress, on_kept)
    return keep_pnorm(task.result(), out) if shard is None else partial


def measure_now(generator: Generator, out: Path) -> None:
    """Measure the statistics of a generator that has none, when they are asked for, and keep them in `out`.

    Raises LatentoptError where `out` cannot be written.
    """
    with clear_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    tell(f"{generator.name} has no P-norm statistics yet: measuring them on {SAMPLES:,} codes, kept in {out}")
    with phase("measuring P-norm statistics", SAMPLES, "codes") as advance, clear_write_errors(out):
        measure_pnorm(generator, out, max(SAMPLES, 2 * generator.w_dim), on_progress=advance)


def keep_pnorm(pnorm: PNorm, out: Path, merged: bool = False) -> PNorm:
    """Save statistics as `out`, as `keep_fit` does."""
    keep_fit(pnorm, out, merged)
    return pnorm


def merge_pnorm(generator: Generator, out: Path) -> PNorm:
    """Merge the finished shards beside `out` into it. Raises StatisticsError as `merge_shards`."""
    return keep_pnorm(merge_shards(generator, find_shards(out)), out, merged=True)


def take_over_pnorm(generator: Generator, npz: Path, out: Path, seed: int = 0) -> PNorm:
    """Keep the statistics of an existing `.npz` as `out`, after a test against this generator's own codes: the file
    names no generator. Raises StatisticsError where they do not describe it.
    """
    pnorm = PNorm.load(npz, generator)
    v = pnorm.whiten(draw_codes(generator, 0, seed=seed, batch=CHECK_SAMPLES).cpu().double())
    mean_square = v[:, : max(v.shape[1] // 2, 1)].square().mean().item()
    if not CHECK_RANGE[0] <= mean_square <= CHECK_RANGE[1]:
        raise StatisticsError(
            f"{npz}: does not describe {generator.name!r}: its codes have mean square {mean_square:.3g} there, not 1; "
            f"run without --npz: {to_run('fit-pnorm', generator.source)}"
        )
    return keep_pnorm(replace(pnorm, fingerprint=generator.fingerprint, name=generator.name), out)
