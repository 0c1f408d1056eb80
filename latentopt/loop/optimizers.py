"""The optimisers a recipe may name, all from torch and all elementwise, so that images in a batch do not couple.

`torch.optim.LBFGS` is left out on purpose: one line search for a whole batch makes an image's result depend on its
companions.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer

BETAS = [0.9, 0.999]


def _pair(betas: list) -> tuple[float, float]:
    first, second = betas
    return first, second


def adam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> Optimizer:
    return torch.optim.Adam(groups, betas=_pair(betas), eps=eps)


def adamw(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8, weight_decay: float = 0.01) -> Optimizer:
    return torch.optim.AdamW(groups, betas=_pair(betas), eps=eps, weight_decay=weight_decay)


def nadam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> Optimizer:
    return torch.optim.NAdam(groups, betas=_pair(betas), eps=eps)


def radam(groups: list[dict], *, betas: list = BETAS, eps: float = 1e-8) -> Optimizer:
    return torch.optim.RAdam(groups, betas=_pair(betas), eps=eps)


def sgd(groups: list[dict], *, momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov)
