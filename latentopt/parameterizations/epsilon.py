"""Weights measured in units of their own standard deviation: theta = mu + sigma * epsilon (WRanGAN)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import StatisticsError, UsageError
from latentopt.generators.tunable import choose_weights
from latentopt.parameterizations.weights import check_weight, given_deltas, sum_of_squares, with_deltas
from latentopt.protocols import Generator, Parameterization
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.sigma import SIGMA, Sigma
from latentopt.types import GeneratorInputs, Variables

COEFFICIENTS = ("alpha/sigma^2", "alpha/sigma")


class Epsilon(Parameterization):
    """One epsilon [B,*shape] for each chosen weight: delta = sigma * epsilon, held near 0 by alpha * sum epsilon^2.

    layers       which weights (`choose_weights`); the paper randomises the last six convolutions that are not toRGB
    alpha        weight of the sum of squares of epsilon, a sum over all entries
    start        of every epsilon for whose weight the inputs carry no delta
    sigma        file of the standard deviations; found by the generator's fingerprint when absent
    shared       one epsilon for all images of the batch; per-image deltas in the inputs are encoded by their mean
    coefficient  of (theta - mu)^2 in the penalty, see below

    Source: WRanGAN, section 3.3 and Algorithm 1. Section 3.3 prints alpha ||epsilon||^2 = sum alpha/sigma (theta -
    mu)^2, but theta - mu = sigma epsilon makes it alpha/sigma^2. Algorithm 1's alpha ||epsilon||^2 is followed;
    `coefficient = "alpha/sigma"` weighs each epsilon^2 by its sigma, as the printed equation has it.

    Exact where sigma is above 0; a weight of sigma 0 never moves.
    """

    owns = {"deltas"}
    reads = {"sigma": "sigma"}
    shares = "shared"
    exact = True
    examples = ({}, {"alpha": 0.0, "layers": "convs"}, {"shared": True}, {"coefficient": "alpha/sigma"})

    def __init__(
        self,
        generator: Generator,
        *,
        layers: str = "convs:6",
        alpha: float = 1e-4,
        start: float = 1e-4,
        sigma: str | None = None,
        shared: bool = False,
        coefficient: str = "alpha/sigma^2",
    ) -> None:
        check_weight("alpha", alpha)
        if not math.isfinite(start):
            raise UsageError(f"start must be a number, not {start}")
        if coefficient not in COEFFICIENTS:
            raise UsageError(f"coefficient {coefficient!r} is not one of {', '.join(COEFFICIENTS)}")
        self.scale, self.path = given_or_found(SIGMA, generator, sigma)
        self.sigma = _chosen(self.scale, self.path, choose_weights(generator, layers), generator)
        self.alpha, self.start, self.shared = alpha, start, shared
        self.printed = coefficient == "alpha/sigma"

    def encode(self, inputs: GeneratorInputs) -> Variables:
        given = given_deltas(inputs, self.sigma, self.shared)
        rows = 1 if self.shared else len(inputs)
        variables = {}
        for name, sigma in self.sigma.items():
            if name in given:
                variables[name] = torch.where(sigma > 0, given[name] / sigma, 0)
            else:
                variables[name] = inputs.ws.new_full((rows, *sigma.shape), self.start)
        return variables

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return with_deltas(inputs, {name: sigma * variables[name] for name, sigma in self.sigma.items()})

    def penalty(self, variables: Variables) -> Tensor | None:
        if self.alpha == 0:
            return None
        if self.printed:
            variables = {name: sigma.sqrt() * variables[name] for name, sigma in self.sigma.items()}
        return self.alpha * sum_of_squares(variables.values())


def _chosen(sigma: Sigma, path: Path, names: tuple[str, ...], generator: Generator) -> dict[str, Tensor]:
    missing = [name for name in names if name not in sigma.tensors]
    if missing:
        more, chosen = "sigma/more.safetensors", ",".join(names)
        raise StatisticsError(
            f"{path}: has no sigma for {', '.join(missing)}; choose other layers, or make one that covers them "
            f"({SIGMA.to_make(generator, f'--layers {chosen} --out {more}')}) and name it: --sigma {more}"
        )
    return {name: sigma.tensors[name].to(generator.device) for name in names}
