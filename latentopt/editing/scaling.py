"""The unit of strength: one standard deviation of the generator's samples along a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.statistics.sampling import sample_w

SAMPLES, SEED = 10_000, 0
ROUNDING = 1e-6  # a deviation of this share of the mean is no deviation


def sample_codes(
    generator: Generator, seed: int = SEED, n: int = SAMPLES, mixed: bool = False, label: int = 0
) -> Tensor:
    """The latents of `n` samples [n,C], or [n,L,C] with two styles in each, changed at a random layer."""
    if not mixed:
        return sample_w(generator, seed, n, label)
    first, second = (generator.broadcast(w) for w in sample_w(generator, seed, 2 * n, label).chunk(2))  # [n,L,C]
    rng = torch.Generator().manual_seed(seed)
    crossover = torch.randint(1, max(generator.num_ws, 2), (n,), generator=rng).to(first.device)
    coarse = torch.arange(generator.num_ws, device=first.device) < crossover[:, None]  # [n,L]
    return torch.where(coarse[..., None], first, second)


def scaled(vector: Tensor, codes: Tensor) -> Tensor:
    """`vector` [...] as long as the standard deviation of `codes` [n,...] along it, float32, on the CPU.

    Raises UsageError for a vector of length 0, and where the codes do not vary along it.
    """
    unit = vector.detach().double().flatten().cpu()
    unit = unit / unit.norm()
    along = codes.detach().flatten(1).double().cpu() @ unit  # [n]
    std = along.std()
    if not (std > ROUNDING * along.abs().mean() and unit.isfinite().all()):
        raise UsageError("a direction along which the samples do not vary has no strength; it was not found")
    return (unit * std).reshape(vector.shape).float()


def reading_scales(readings: Tensor) -> Tensor:
    """The deviation [A] of readings [n,A] that are known; 0 for an attribute that does not vary, or of which too few
    are.
    """
    columns = [column[column.isfinite()] for column in readings.T]
    known = [len(column) > 1 and bool(column.std() > ROUNDING * column.mean().abs()) for column in columns]
    return torch.stack([c.std() if varies else c.new_zeros(()) for c, varies in zip(columns, known, strict=True)])


def in_deviations(change: Tensor, scales: Tensor) -> Tensor:
    """Changes of readings [...,A] in their scales [A]; 0 for one that has no scale. What is not known stays so."""
    moving = scales > 0
    return torch.where(moving, change / torch.where(moving, scales, 1.0), 0.0)
