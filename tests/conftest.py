"""Shared fixtures: a tiny StyleGAN2 and its inputs. They are made once a session: copy one before changing it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.types import GeneratorInputs

REFERENCE = Path(__file__).parent / "reference"


def make_tiny_generator(seed: int = 0, **changes) -> StyleGAN2:
    """A seeded StyleGAN2, 32x32 with 8 rows of w [16] unless `changes` to its configuration say otherwise.

    No weight is trivial: biases, noise strengths and w_avg are drawn too, so that a forgotten one shows.
    """
    settings = {"z_dim": 16, "w_dim": 16, "channels": (12, 10, 8, 6), "mapping_layers": 3} | changes
    config = StyleGAN2Config(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = StyleGAN2(config, name="tiny").eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.startswith("mapping.fc") and name.endswith("bias"):
                tensor.copy_(torch.randn_like(tensor) * 0.3 / config.lr_multiplier)
            elif name.endswith(("noise_strength", "bias")):
                tensor.add_(torch.randn_like(tensor) * 0.2)
        c = torch.randn(512, config.c_dim) if config.c_dim else None
        generator.w_avg.copy_(generator.mapping(torch.randn(512, config.z_dim), c).mean(dim=0))
    return generator


@pytest.fixture(scope="session")
def tiny_generator() -> StyleGAN2:
    """32x32, 8 rows of w [16]; shared by the session, so do not change it."""
    return make_tiny_generator()


@pytest.fixture
def tiny_generator_copy(tiny_generator) -> StyleGAN2:
    """A copy of `tiny_generator` that a test may change."""
    return copy.deepcopy(tiny_generator)


@pytest.fixture(scope="session")
def tiny_inputs(tiny_generator) -> GeneratorInputs:
    """Three images' inputs with every row of ws different: [3,8,16]."""
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(3 * tiny_generator.num_ws, tiny_generator.z_dim, generator=rng)
    return GeneratorInputs(tiny_generator.mapping(z).unflatten(0, (3, -1)))
