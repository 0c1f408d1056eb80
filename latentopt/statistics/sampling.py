"""Samples of the mapping network, and the radius of their cloud: the unit in which moves in W are measured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator

W_STD_SAMPLES, W_STD_SEED = 10_000, 123  # as in NVIDIA's projector


def sample_w(generator: Generator, seed: int, n: int, label: int = 0) -> Tensor:
    """`n` mapped samples [n,C] of one seed, the same on every device."""
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed)).to(generator.device)
    with torch.no_grad():
        return generator.mapping(z, one_hot(generator, label, n))


def one_hot(generator: Generator, label: int, n: int) -> Tensor | None:
    """`n` times one label [n,K] for a generator that takes labels, else None. Raises UsageError for labels out of range."""
    if not generator.c_dim:
        return None
    if not 0 <= label < generator.c_dim:
        raise UsageError(f"label must be from 0 to {generator.c_dim - 1}, not {label}")
    return F.one_hot(torch.full((n,), label), generator.c_dim).float().to(generator.device)


def w_std(generator: Generator) -> float:
    """The radius of the cloud of w: root of the mean squared distance from its mean, one number."""
    w = sample_w(generator, W_STD_SEED, W_STD_SAMPLES)
    return (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt().item()
