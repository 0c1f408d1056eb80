"""The optimisers that know no line search: functions that make torch's own, and what lets them work in the loop.

All are elementwise, or at least go by the rows of a variable, so that images in a batch do not couple.
`torch.optim.LBFGS` is left out on purpose: one line search for a whole batch makes an image's result depend on its
companions; `latentopt.loop.lbfgs` has one for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.loop.state import over
from latentopt.protocols import Generator, Memory, Optimizer
from latentopt.types import Variables

BETAS = [0.9, 0.999]
TINY = 1e-30
CODE_DIMS = 3  # of a variable that holds codes: images, layers or filters, entries


def _pair(betas: list) -> tuple[float, float]:
    first, second = betas
    return first, second


def adam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, betas=_pair(betas), eps=eps, fused=True)  # one pass over memory, not six


def adamw(
    groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=_pair(betas), eps=eps, weight_decay=weight_decay, fused=True)


def nadam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.NAdam(groups, betas=_pair(betas), eps=eps)


def radam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.RAdam(groups, betas=_pair(betas), eps=eps)


def sgd(groups: list[dict], *, momentum: float = 0.0, nesterov: bool = False) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov)


class Momentum(Optimizer):
    """m <- decay m + g/|g|, x <- x - lr m, with the norm over all entries of an image's variable.

    per   image, or row: the norm over the last dimension, which is one layer's code

    Where a unit step means the same everywhere, in coordinates of the metric or of P-norm+, the length of a gradient
    says little and its direction much. A projection may follow each step.
    """

    examples = ({}, {"per": "row", "decay": 0.5})

    def __init__(self, generator: Generator, *, decay: float = 0.9, per: str = "image") -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"momentum: decay must be from 0 to below 1, not {decay}")
        if per not in ("image", "row"):
            raise UsageError(f"momentum: per must be image or row, not {per!r}")
        self.decay, self.per = decay, per

    def step(
        self,
        variables: Variables,
        gradients: Variables,
        loss: Tensor,
        memory: Memory,
        lr: Mapping[str, float],
        scale: Tensor,
    ) -> None:
        for name, x in variables.items():
            m = memory.setdefault(name, {}).setdefault("momentum", torch.zeros_like(x))
            m.mul_(self.decay).add_(at_length_one(gradients[name], per_row=self.per == "row"))
            x.sub_(lr[name] * over(scale[: len(x)], x) * m)


class NormalizedGradient(Optimizer):
    """x <- x - lr g/|g|, with the norm over each code: the last dimension of a variable [B,Z], [B,L,C] or [B,O,C].

    So every layer's w (in w++ every filter's) moves by lr in every step, whatever the loss. Variables that are no codes
    (noise maps, weights, features) go by the norm over an image's whole variable.

    Source: Poirier-Ginter and Lalonde 2023, "Robust Unsupervised StyleGAN Image Restoration", section 3.3.
    """

    def __init__(self, generator: Generator) -> None:
        pass

    def step(
        self,
        variables: Variables,
        gradients: Variables,
        loss: Tensor,
        memory: Memory,
        lr: Mapping[str, float],
        scale: Tensor,
    ) -> None:
        for name, x in variables.items():
            unit = at_length_one(gradients[name], per_row=x.ndim <= CODE_DIMS)
            x.sub_(lr[name] * over(scale[: len(x)], x) * unit)


def at_length_one(g: Tensor, per_row: bool) -> Tensor:
    """A gradient [B,...] whose norm is 1: of each row of its last dimension, or of all that is an image's. 0 stays."""
    rows = g if per_row and g.ndim > 1 else g.reshape(len(g), -1)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(TINY)
    return (rows / norm).reshape(g.shape)


class Elementwise(Optimizer):
    """One of torch's optimisers, which `make` makes of parameter groups; what it remembers is handed to it each time.

    Raises UsageError for options that it refuses.
    """

    def __init__(self, name: str, make: Callable[[list[dict]], torch.optim.Optimizer]) -> None:
        self.make = make
        point = torch.zeros(1, 1, requires_grad=True)
        point.grad = torch.zeros(1, 1)
        try:
            make([{"params": [point], "lr": 1.0}]).step()
        except (ValueError, TypeError, IndexError) as error:
            options = getattr(make, "keywords", {})
            raise UsageError(f"optimizer {name!r} refuses {options}: {error}") from error

    def step(
        self,
        variables: Variables,
        gradients: Variables,
        loss: Tensor,
        memory: Memory,
        lr: Mapping[str, float],
        scale: Tensor,
    ) -> None:
        scaled = bool((scale != 1).any())
        old = {name: v.clone() for name, v in variables.items()} if scaled else {}
        for name, v in variables.items():
            v.grad = gradients[name]
        groups: dict[float, list[Tensor]] = {}
        for name, v in variables.items():
            groups.setdefault(lr[name], []).append(v)
        optimizer = self.make([{"params": group, "lr": rate} for rate, group in groups.items()])
        for name, v in variables.items():
            optimizer.state[v] = dict(memory.get(name, {}))
        optimizer.step()
        for name, v in variables.items():
            memory[name] = dict(optimizer.state[v])
            v.grad = None
            if scaled:
                own = over(scale[: len(v)], v)
                v.copy_(torch.where(own == 1, v, torch.lerp(old[name], v, own)))  # 1 must not even round
