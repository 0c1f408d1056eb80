"""Which activations of a generator hold features, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

SKIP = ".img"  # how activations are named that are images already


def featured(generator: Generator) -> list[str]:
    """The activations that hold features: neither images nor, in StyleGAN3, the input and what goes to colours."""
    others = generator.layers.keys() - generator.convolutions.keys()
    return [name for name in generator.activations if not name.endswith(SKIP) and name not in others]


@torch.no_grad()
def shapes_of(generator: Generator, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """{activation: [c,h,w]}."""
    found = generator.activations_of(GeneratorInputs(generator.broadcast(generator.w_avg[None])), names)
    return {name: tuple(found[name].shape[1:]) for name in names}


def finest(shapes: Mapping[str, Sequence[float]], size: float) -> str:
    """The last activation of at most that many pixels on its longer side, or the first."""
    return next((name for name in reversed(list(shapes)) if max(shapes[name][1:]) <= size), next(iter(shapes)))
