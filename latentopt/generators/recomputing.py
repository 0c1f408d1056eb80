"""Layers that are computed again for the gradient, instead of kept: less memory, a third more time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LARGE = 128 * 128  # pixels of a layer from which on `low_memory` saves something worth its time


def is_large(size: tuple[int, int]) -> bool:
    """Whether a layer of this size is worth computing again."""
    return math.prod(size) >= LARGE


def checkpointed(layer: nn.Module, *arguments: object) -> Tensor:
    """What `layer` makes of them; its inside is not kept for the gradient but computed once more."""
    if not torch.is_grad_enabled():
        return layer(*arguments)
    return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
