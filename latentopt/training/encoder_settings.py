"""Settings of encoder training: weights, schedules and optimisers of the papers, and what differs from kind to kind."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.training import ENCODER_KINDS

OPTIMIZERS = ("adam", "ranger")
E4E = {"delta_weight": 2e-4, "latent_weight": 0.1, "progressive": True}


@dataclass(frozen=True)
class EncoderTraining:
    """Settings of one training; the defaults are pSp's, `settings_for` has those of each kind.

    Weights are the papers' (faces). `progressive`: offsets join from row 1 on, the first after `progressive_from` of
    all steps, the last by `progressive_until`: e4e's schedule (20,000 steps, then a row every 2,000) at its 200,000
    steps. The rate falls to 0 as a half cosine over the last `decay` of the steps; the papers' is constant. The latent
    discriminator's is, unless given, a fifth of `lr`, as in the papers (2e-5 and 1e-4), and constant.
    """

    kind: str = "psp"
    steps: int = 10_000
    batch: int = 8
    lr: float = 1e-3
    decay: float = 0.5
    optimizer: str = "adam"
    l2_weight: float = 1.0
    perceptual_weight: float = 0.8
    similarity_weight: float = 0.1
    delta_weight: float = 0.0
    latent_weight: float = 0.0
    latent_lr: float | None = None
    latent_r1: float = 10.0
    latent_r1_interval: int = 16
    progressive: bool = False
    progressive_from: float = 0.1
    progressive_until: float = 0.27
    restyle_steps: int = 1
    ema: float = 0.999
    perceptual_net: str = "auto"
    similarity_net: str = "perceptual"
    precision: str = "auto"
    seed: int = 0

    def stage(self, step: int, num_ws: int) -> int | None:
        """How many rows have offsets in this step (e4e, section 5.1); None: all, from the start."""
        if not self.progressive:
            return None
        begin, end = self.progressive_from * self.steps, self.progressive_until * self.steps
        if step < begin:
            return 0
        share = (end - begin) / (num_ws - 1)
        return num_ws - 1 if step >= end else min(1 + int((step - begin) / share), num_ws - 1)

    def rate(self, step: int) -> float:
        """The learning rate of this step."""
        left = (self.steps - step) / max(self.decay * self.steps, 1e-9)
        return self.lr * (1 - math.cos(math.pi * min(left, 1.0))) / 2

    @property
    def latent_rate(self) -> float:
        """The learning rate of the latent discriminator."""
        return self.lr / 5 if self.latent_lr is None else self.latent_lr

    def check(self, generator: Generator, processes: int = 1) -> None:
        """Raises UsageError for settings and generators that cannot be trained with."""
        if self.kind not in ENCODER_KINDS:
            raise UsageError(f"encoder kind {self.kind!r} is not one of {', '.join(ENCODER_KINDS)}")
        if self.progressive and "e4e" not in self.kind:
            raise UsageError(f"--progressive: a {self.kind} encoder has no offsets that could join one by one")
        if not 0 <= self.progressive_from <= self.progressive_until <= 1:
            raise UsageError("progressive_from and progressive_until must lie in [0,1], in this order")
        if min(self.steps, self.batch, self.restyle_steps) < 1:
            raise UsageError("steps, batch and restyle_steps must be at least 1")
        if self.restyle_steps > 1 and not self.kind.startswith("restyle"):
            raise UsageError(f"--restyle-steps {self.restyle_steps}: a {self.kind} encoder takes one step")
        if self.batch % processes:
            raise UsageError(f"--batch {self.batch} cannot be split evenly among {processes} processes")
        if generator.c_dim:
            raise UsageError(f"{generator.name}: takes labels; encoders are trained for generators without")


def settings_for(kind: str, **given: Any) -> EncoderTraining:
    """The settings of a kind: the papers' losses and schedule of that kind, and what is given."""
    own = (E4E if "e4e" in kind else {}) | ({"restyle_steps": 5} if kind.startswith("restyle") else {})
    return EncoderTraining(kind=kind, **own | given)


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam, or Ranger (RAdam, Lookahead and gradient centralisation) with the papers' constants.

    Raises UsageError when pytorch-optimizer, which has Ranger, is not installed.
    """
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    try:
        from pytorch_optimizer import Ranger
    except ImportError as error:
        raise UsageError(
            "--optimizer ranger: needs the package pytorch-optimizer; pip install 'latentopt[train]', or use adam"
        ) from error
    return Ranger(parameters, lr=lr, betas=(0.95, 0.999), eps=1e-5, alpha=0.5, k=6, n_sma_threshold=5)
