"""The plain latent spaces: W, W+ and Z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.parameterizations.constraint import PNormConstraint, basis_of
from latentopt.parameterizations.metric import LATENT_DAMPING, MetricOptions, Whitening
from latentopt.protocols import Generator, Parameterization
from latentopt.types import GeneratorInputs, Variables


class WPlus(Parameterization):
    """W+: one w for every layer, `w` [B,L,C]. Exact for every ws.

    With `clip`, `project` or `l2` the code is held near the centre of P-norm+ while it is optimised in W+, the first
    way of the P-norm paper (section 5, appendix A); the options are those of `PNormConstraint`.

    With `metric` the variable is `u` [B,L,C], ws_l = w_avg + A_l u_l (`latentopt.parameterizations.metric`).
    """

    owns = {"ws"}
    reads = {"stats": "p-norm", "metric_file": "metric"}
    reads_if = {"stats": ("clip", "project", "l2"), "metric_file": ("metric",)}
    recipe = "i2s"
    exact = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {},
        {"clip": 1.0},
        {"project": 1.5},
        {"clip": 1.0, "project": 1.5, "l2": 0.1},
        {"clip": 1.0, "rank": 5},
        {"clip": 1.0, "std_floor": 0.2},
        {"metric": True},
        {"metric": True, "damping": 0.1, "clip": 1.0, "l2": 0.1},
    )
    blocks: ClassVar[str] = "ws"  # of the metric

    def __init__(
        self,
        generator: Generator,
        *,
        clip: float | None = None,
        project: float | None = None,
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
        self.num_ws = generator.num_ws
        self.constraint: PNormConstraint | None = None
        if clip is not None or project is not None or l2 != 0:
            basis = basis_of(generator, std_floor, rank, stats)
            self.constraint = PNormConstraint(basis, generator.num_ws, clip, project, l2=l2)

        self.whitening: Whitening | None = None
        options = MetricOptions(metric_net, metric_size, metric_file, damping, LATENT_DAMPING)
        if metric:
            found = options.find(generator)
            self.distance = found.distance
            self.whitening = Whitening.of(found.roots(self.blocks, options.damping), generator.w_avg)

    def encode(self, inputs: GeneratorInputs) -> Variables:
        return self._variables(inputs.ws.detach().clone())

    def _variables(self, w: Tensor) -> Variables:
        return {"w": w} if self.whitening is None else {"u": self.whitening.into(w)}

    def _w(self, variables: Variables) -> Tensor:
        """[B,L or 1,C]."""
        return variables["w"] if self.whitening is None else self.whitening.out(variables["u"])

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return inputs.replace(ws=self._w(variables).expand(-1, self.num_ws, -1))

    def project_(self, variables: Variables) -> None:
        if self.constraint is None:
            return
        w = self._w(variables)
        nearest = self.constraint.nearest_w(w)
        moved = (nearest != w).any(dim=2, keepdim=True)
        for name, v in self._variables(nearest).items():
            variables[name].copy_(torch.where(moved, v, variables[name]))

    def penalty(self, variables: Variables) -> Tensor | None:
        return None if self.constraint is None else self.constraint.penalty_w(self._w(variables))


class W(WPlus):
    """W: the same w in every layer, `w` [B,1,C]. A W+ code is encoded by the mean of its rows, which is lossy."""

    exact = False
    examples = ({}, {"clip": 1.0}, {"l2": 0.1}, {"metric": True}, {"metric": True, "clip": 1.0})
    blocks = "w"

    def encode(self, inputs: GeneratorInputs) -> Variables:
        return self._variables(inputs.ws.detach().mean(dim=1, keepdim=True))


class ZPlus(Parameterization):
    """Z+: one input of the mapping network for every layer, `z` [B,L,Z], each on the sphere of radius sqrt(Z).

    Encoding runs the mapping network backwards (`Generator.inverse_mapping`): nearly exact for w that it made, and the
    nearest for others. Conditional generators use the label `label` (one-hot).
    """

    owns = {"ws"}
    recipe = "ii2s-pnorm"
    examples = ({}, {"sphere": False})

    def __init__(self, generator: Generator, *, sphere: bool = True, label: int = 0) -> None:
        self.generator, self.sphere = generator, sphere
        self.c: Tensor | None = None
        if generator.c_dim:
            if not 0 <= label < generator.c_dim:
                raise UsageError(f"label must be from 0 to {generator.c_dim - 1}, not {label}")
            self.c = torch.zeros(1, generator.c_dim, device=generator.device)
            self.c[:, label] = 1

    def encode(self, inputs: GeneratorInputs) -> Variables:
        z = self.generator.inverse_mapping(inputs.ws.detach().flatten(0, 1), self.c).unflatten(0, inputs.ws.shape[:2])
        self._to_sphere_(z)
        return {"z": z}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        z = variables["z"]
        return inputs.replace(ws=self._w(z.flatten(0, 1)).unflatten(0, z.shape[:2]))

    def _w(self, z: Tensor) -> Tensor:
        """[N,Z] -> [N,C]."""
        return self.generator.mapping(z, None if self.c is None else self.c.expand(len(z), -1))

    def project_(self, variables: Variables) -> None:
        if self.sphere:
            self._to_sphere_(variables["z"])

    @staticmethod
    def _to_sphere_(z: Tensor) -> None:
        z.mul_(z.shape[-1] ** 0.5 / z.norm(dim=-1, keepdim=True).clamp_min(1e-12))


class Z(ZPlus):
    """Z: as z+, with one `z` [B,Z] for all layers (PULSE, Menon et al. 2020). A W+ code is encoded by the mean row."""

    def encode(self, inputs: GeneratorInputs) -> Variables:
        z = self.generator.inverse_mapping(inputs.ws.mean(dim=1), self.c)
        self._to_sphere_(z)
        return {"z": z}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return inputs.replace(ws=self.generator.broadcast(self._w(variables["z"])))
