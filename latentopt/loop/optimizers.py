"""The optimisers that know no line search: functions that make torch's own, and what lets them work in the loop.

All are elementwise, or at least go by the rows of a variable, so that images in a batch do not couple.
`torch.optim.LBFGS` is left out on purpose: one line search for a whole batch makes an image's result depend on its
companions; `latentopt.loop.lbfgs` has one for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.loop.state import over
from latentopt.protocols import Memory, Optimizer
from latentopt.types import Variables

BETAS = [0.9, 0.999]


def _pair(betas: list) -> tuple[float, float]:
    first, second = betas
    return first, second


def adam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, betas=_pair(betas), eps=eps)


def adamw(
    groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=_pair(betas), eps=eps, weight_decay=weight_decay)


def nadam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.NAdam(groups, betas=_pair(betas), eps=eps)


def radam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.RAdam(groups, betas=_pair(betas), eps=eps)


def sgd(groups: list[dict], *, momentum: float = 0.0, nesterov: bool = False) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov)


def momentum(groups: list[dict], *, decay: float = 0.9, per: str = "image") -> torch.optim.Optimizer:
    return NormalizedMomentum(groups, decay, per)


class NormalizedMomentum(torch.optim.Optimizer):
    """m <- decay m + g/|g|, x <- x - lr m, with the norm over all entries of an image's variable.

    per   image, or row: the norm over the last dimension, which is one layer's code

    Where a unit step means the same everywhere, in coordinates of the metric or of P-norm+, the length of a gradient
    says little and its direction much. A projection may follow each step.
    """

    def __init__(self, groups: Iterable[dict], decay: float, per: str) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, not {decay}")
        if per not in ("image", "row"):
            raise ValueError(f"per must be image or row, not {per!r}")
        self.per = per
        super().__init__(groups, {"lr": 1.0, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for x in group["params"]:
                dims = -1 if self.per == "row" else tuple(range(1, x.ndim)) or 0
                norm = torch.linalg.vector_norm(x.grad, dim=dims, keepdim=True)
                m = self.state[x].setdefault("momentum", torch.zeros_like(x))
                m.mul_(group["decay"]).add_(x.grad / norm.clamp_min(1e-30))
                x.add_(m, alpha=-group["lr"])


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
