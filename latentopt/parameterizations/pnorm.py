"""P-norm and P-norm+: coordinates in which the generator's own latents are a unit Gaussian ball.

Source: Zhu et al. 2020, section 3: P = inverse of the last leaky ReLU, then PCA whitening.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from latentopt.parameterizations.constraint import PNormConstraint, basis_of
from latentopt.parameterizations.metric import LATENT_DAMPING, MetricOptions, Whitening
from latentopt.protocols import Generator, Parameterization
from latentopt.types import GeneratorInputs, Variables


class Whitened(Parameterization):
    """Codes in the coordinates of a constraint, `v` [B,L,K]: P-norm+ by statistics that are at hand.

    Computed in the precision and on the device of the constraint's basis.
    """

    owns = {"ws"}

    def __init__(self, constraint: PNormConstraint) -> None:
        self.constraint = constraint

    def encode(self, inputs: GeneratorInputs) -> Variables:
        basis = self.constraint.basis
        return {"v": basis.whiten(inputs.ws.detach().to(basis.mean))}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        ws = self.constraint.basis.unwhiten(variables["v"])
        return inputs.replace(ws=ws.expand(-1, self.constraint.num_ws, -1).to(inputs.ws))

    def project_(self, variables: Variables) -> None:
        variables["v"].copy_(self.constraint.nearest(variables["v"]))

    def penalty(self, variables: Variables) -> Tensor | None:
        return self.constraint.penalty(variables["v"])


class PNormPlus(Whitened):
    """P-norm+: `v` [B,L,K], one whitened code a layer; exact for every ws when `rank` is not set.

    clip       bound of each coordinate in standard deviations
    project    radius of each coordinate's vector over the layers (Project-n of the paper)
    sphere     every layer on the sphere of radius sqrt(K) (PULSE)
    l2         weight of the sum of v^2 in the loss
    std_floor  smallest standard deviation used, as a fraction of the largest; 0 follows the paper
    rank       number of principal components kept; the others stay at the mean
    stats      statistics file, instead of the one found for the generator
    metric     the variable is `u` [B,L,K], v_l = A_l u_l (`latentopt.parameterizations.metric`); the bounds stay those
               of v
    """

    reads = {"stats": "p-norm", "metric_file": "metric"}
    reads_if = {"metric_file": ("metric",)}
    recipe = "fast-pnorm"
    exact = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"clip": 1.0},
        {"project": 1.5},
        {"sphere": True},
        {"rank": 5},
        {"std_floor": 0.2, "l2": 0.1},
        {"metric": True, "clip": 1.0, "l2": 0.1},
        {"metric": True, "rank": 5},
    )
    blocks: ClassVar[str] = "ws"  # of the metric

    def __init__(
        self,
        generator: Generator,
        *,
        clip: float | None = None,
        project: float | None = None,
        sphere: bool = False,
        l2: float = 0.0,
        std_floor: float = 0.0,
        rank: int | None = None,
        stats: str | None = None,
        metric: bool | None = None,
        metric_net: str | None = None,
        metric_size: int | None = None,
        metric_file: str | None = None,
        damping: float | None = None,
    ) -> None:
        basis = basis_of(generator, std_floor, rank, stats)
        super().__init__(PNormConstraint(basis, generator.num_ws, clip, project, sphere, l2))
        self.exact_basis = partial(basis_of, generator, std_floor, rank, stats, torch.float64)
        self.whitening: Whitening | None = None
        options = MetricOptions(metric_net, metric_size, metric_file, damping, LATENT_DAMPING)
        if metric:
            found = options.find(generator)
            self.distance = found.distance
            axes = basis.std[:, None] * basis.components  # of v in P, [K,C]
            roots = found.whitened_roots(self.blocks, axes, options.damping)
            self.whitening = Whitening.of(roots, torch.zeros_like(basis.std))

    def in_float64(self) -> Self:
        exact = copy.copy(self)
        exact.constraint = replace(self.constraint, basis=self.exact_basis())
        if self.whitening is not None:
            exact.whitening = self.whitening.to(exact.constraint.basis.std)
        return exact

    def _variables(self, v: Tensor) -> Variables:
        return {"v": v} if self.whitening is None else {"u": self.whitening.into(v)}

    def _v(self, variables: Variables) -> Variables:
        return variables if self.whitening is None else {"v": self.whitening.out(variables["u"])}

    def encode(self, inputs: GeneratorInputs) -> Variables:
        return self._variables(super().encode(inputs)["v"])

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return super().decode(self._v(variables), inputs)

    def project_(self, variables: Variables) -> None:
        coordinates = self._v(variables)
        super().project_(coordinates)
        if self.whitening is not None:
            variables["u"].copy_(self.whitening.into(coordinates["v"]))

    def penalty(self, variables: Variables) -> Tensor | None:
        return super().penalty(self._v(variables))


class PNormSpace(PNormPlus):
    """P-norm: the same whitened code in every layer, `v` [B,1,K]. A W+ code is encoded by the mean of its rows."""

    recipe = "ii2s-pnorm"
    exact = False
    examples = ({}, {"clip": 1.0, "l2": 0.1}, {"metric": True})
    blocks = "w"

    def encode(self, inputs: GeneratorInputs) -> Variables:
        basis = self.constraint.basis
        return self._variables(basis.whiten(inputs.ws.detach().mean(dim=1, keepdim=True).to(basis.mean)))
