"""Samples of a generator, and the radius of the cloud of w: the unit in which moves in W are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

W_STD_SAMPLES, W_STD_SEED = 10_000, 123  # as in NVIDIA's projector
PIXELS_AT_ONCE = 1 << 18  # of pictures that are drawn beside the work: a second or three on two cores


def sample_w(generator: Generator, seed: int | torch.Generator, n: int, label: int = 0) -> Tensor:
    """`n` mapped samples [n,C] of one seed, or of a stream on the CPU; the same on every device."""
    rng = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    z = torch.randn(n, generator.z_dim, generator=rng).to(generator.w_avg)
    with torch.no_grad():
        return generator.mapping(z, one_hot(generator, label, n))


def one_hot(generator: Generator, label: int, n: int) -> Tensor | None:
    """`n` times one label [n,K] for a generator that takes labels, else None. Raises UsageError for another label."""
    check_label(generator, label)
    if not generator.c_dim:
        return None
    return F.one_hot(torch.full((n,), label), generator.c_dim).float().to(generator.device)


def check_label(generator: Generator, label: int) -> None:
    """Raise UsageError for a class that a generator which takes labels does not have."""
    if generator.c_dim and not 0 <= label < generator.c_dim:
        raise UsageError(f"label must be from 0 to {generator.c_dim - 1}, not {label}")


def drawn_at_once(generator: Generator, most: int) -> int:
    """How many pictures to draw at once beside the work, at most `most`: one at 512 pixels and above."""
    height, width = generator.resolution
    return max(1, min(most, PIXELS_AT_ONCE // (height * width)))


def w_std(generator: Generator) -> float:
    """The radius of the cloud of w: root of the mean squared distance from its mean, one number."""
    w = sample_w(generator, W_STD_SEED, W_STD_SAMPLES)
    return (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt().item()


def seeded_inputs(generator: Generator, seed: int, psi: float = 1.0, label: int | None = None) -> GeneratorInputs:
    """What draws the picture of z = `RandomState(seed).randn(1, z_dim)`, as NVIDIA's generate.py does.

    psi: truncation, 1 for none. Raises UsageError where a label is missing, out of range, or not taken.
    """
    if not generator.c_dim and label is not None:
        raise UsageError(f"--class {label}: this generator takes no labels; leave the option out")
    if generator.c_dim and (label is None or not 0 <= label < generator.c_dim):
        raise UsageError(f"this generator takes labels: pass --class with 0 to {generator.c_dim - 1}")
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, generator.z_dim)).to(generator.device, torch.float32)
    w = generator.mapping(z, one_hot(generator, label or 0, 1))
    return GeneratorInputs(generator.truncate(w, psi))


def sample_images(
    generator: Generator,
    seeds: Sequence[int],
    psi: float = 1.0,
    label: int | None = None,
    noise_mode: str = "const",
    moved: Callable[[GeneratorInputs], GeneratorInputs] = lambda inputs: inputs,
) -> Tensor:
    """Images [N,img_channels,H,W] of seeds, as `seeded_inputs` and NVIDIA's generate.py draw them.

    psi: truncation, 1 for none; random noise follows the seed too; moved: what is done to the inputs before they are
    drawn. Raises UsageError as `seeded_inputs`.
    """
    images = []
    for seed in seeds:
        rng = torch.Generator(generator.device).manual_seed(seed)
        inputs = moved(seeded_inputs(generator, seed, psi, label))
        images.append(generator.synthesis(inputs, noise_mode, rng))
    return torch.cat(images)
