"""What a foreign state dict may lack, and what is put in its place, with a note on each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentopt.errors import CheckpointError
from latentopt.generators.stylegan2 import StyleGAN2Config

NOISE_SEED = 0
W_AVG = "mapping.w_avg"


def with_missing(
    state: Mapping[str, Tensor], config: StyleGAN2Config, average: Tensor | None, where: str, filters: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a generator with noise maps and the mean of w, where `average` ([C], [1,C] or [n,C]) gives it.
    `filters` is the number of filters of up-sampling in the file: without any, `[1,3,3,1]` is used.

    A few noise maps that are missing among others stay an error. Raises CheckpointError for an average that does not
    fit.
    """
    filled = dict(state)
    notes: tuple[str, ...] = (
        () if filters else ("the file has no filter for up-sampling: the usual one, [1,3,3,1], is used",)
    )
    notes += _add_noise_strength(filled, config) + _add_noise(filled, config)
    if average is not None and W_AVG not in filled:
        filled[W_AVG], more = mean_of_w(average, config.w_dim, where)
        notes += more
    return filled, notes


def _noise_layers(config: StyleGAN2Config) -> dict[str, tuple[int, int]]:
    """{layer: size of its noise map}."""
    return {
        f"synthesis.b{4 << i}.{layer}": (config.const_size[0] << i, config.const_size[1] << i)
        for i in range(len(config.channels))
        for layer in (("conv0", "conv1") if i else ("conv1",))
    }


def _add_noise_strength(state: dict[str, Tensor], config: StyleGAN2Config) -> tuple[str, ...]:
    """None at all: a network that was trained without noise."""
    if any(name.endswith("noise_strength") for name in state):
        return ()
    state |= {f"{layer}.noise_strength": torch.zeros(()) for layer in _noise_layers(config)}
    return ("the file has no strengths of noise: it is drawn without noise",)


def _add_noise(state: dict[str, Tensor], config: StyleGAN2Config) -> tuple[str, ...]:
    if any(name.endswith("noise_const") for name in state):
        return ()
    rng = torch.Generator().manual_seed(NOISE_SEED)
    for layer, size in _noise_layers(config).items():
        state[f"{layer}.noise_const"] = torch.randn(size, generator=rng)
    return (f"the file has no noise maps: seeded ones (seed {NOISE_SEED}) are used",)


def mean_of_w(average: Tensor, w_dim: int, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """The mean of w [C] that stands beside a state dict as [C], [1,C] or [n,C], with notes. Raises CheckpointError."""
    rows = average.reshape(-1, average.shape[-1]) if average.ndim in (1, 2) else average
    if rows.ndim != 2 or rows.shape[1] != w_dim or not len(rows):
        raise CheckpointError(f"{where}: latent_avg has shape {tuple(average.shape)}, not [{w_dim}] or [n,{w_dim}]")
    if torch.equal(rows, rows[:1].expand_as(rows)):
        return rows[0], ()
    return rows.float().mean(dim=0), (f"latent_avg has {len(rows)} different rows: w_avg is their mean",)
