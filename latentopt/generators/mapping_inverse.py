"""The mapping network backwards: the z whose w is nearest to a given one. N rows, Z and C dimensions.

Its layers can be undone one after the other, but those of a trained network flatten much of their input (matrices of a
condition of 10^4 are common), so that the rounding of w in float32 comes out as a z of another w. So it is looked for:
Adam comes near, and Levenberg and Marquardt's method goes along whatever the layers do not flatten. In float64 on the
CPU; Apple's GPUs have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentopt.generators.ops import LRELU_SLOPE, SQRT2, normalize_second_moment

if TYPE_CHECKING:
    from latentopt.generators.layers import FullyConnected, MappingNetwork

RIDGE = 1e-3  # of the layers' inverses at the start, in squares of the largest singular value
EXACT = 1e-4  # of the length of w: a row that is nearer is left alone
LAYERWISE = 1e-2  # as near as this layer by layer: no need of Adam
ADAM_STEPS, ADAM_RATE, ADAM_BETAS = 600, 0.1, (0.9, 0.99)  # of z of the mean square 1
MOST = 8  # iterations of Levenberg and Marquardt's method
AT_ONCE = 64  # rows, for the memory of their Jacobians


@torch.no_grad()
def inverse(network: MappingNetwork, w: Tensor, c: Tensor | None = None) -> Tensor:
    """The z [N,Z] of the mean square 1 that `network` maps nearest to w [N,C]; c [1 or N,K]: labels.

    Rows that are alike are looked for once. What it finds for a row does not depend on the other rows.
    """
    layers = [(_exact(layer.weight) * layer.weight_gain, _bias(layer)) for layer in network.layers]
    (first, bias), others = layers[0], layers[1:]
    label = None if c is None else _exact(normalize_second_moment(network.embed(c))).expand(len(w), -1)
    biases = bias.expand(len(w), -1) if label is None else bias + label @ first[:, network.z_dim :].T  # [N,C]
    rows, places = torch.unique(torch.cat([_exact(w), biases], dim=1), dim=0, return_inverse=True)
    found = []
    for part in rows.split(AT_ONCE):
        wanted, own = part.split((w.shape[1], bias.shape[0]), dim=1)
        found.append(_Rows([(first[:, : network.z_dim], own), *others], wanted).nearest())
    return torch.cat(found)[places].to(w)


class _Rows:
    """Rows of w that are looked for together, and the layers with the bias of each row in the first."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], w: Tensor) -> None:
        self.layers, self.w = layers, w

    def nearest(self) -> Tensor:
        squared = self.w.square().sum(dim=1)
        z = _normal(self.undone(0.0))
        far = (self.distance(z) > LAYERWISE**2 * squared).nonzero()[:, 0]
        if len(far):
            rows = self.index(far)
            one, other = (rows.approached(_normal(start)) for start in (rows.undone(RIDGE), _drawn(z[far])))
            nearer = (rows.distance(one) <= rows.distance(other))[:, None]
            z = z.index_copy(0, far, torch.where(nearer, one, other))
        return self.descend(z, EXACT**2 * squared)

    def index(self, rows: Tensor) -> _Rows:
        return _Rows([(w, b if b.ndim == 1 else b[rows]) for w, b in self.layers], self.w[rows])

    @torch.enable_grad()
    def approached(self, z: Tensor) -> Tensor:
        """By Adam, whose steps of a row depend on no other row."""
        x = z.clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=ADAM_RATE, betas=ADAM_BETAS)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ADAM_STEPS)
        for _ in range(ADAM_STEPS):
            adam.zero_grad()
            self.distance(x).sum().backward()
            adam.step()
            rate.step()
        return _normal(x.detach())

    def undone(self, ridge: float) -> Tensor:
        """Layer by layer backwards."""
        x = self.w
        for weight, bias in reversed(self.layers):
            y = x / SQRT2
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            x = (torch.where(y < 0, y / LRELU_SLOPE, y) - bias) @ u
            floor = torch.finfo(s.dtype).eps * s[0]
            x = x * torch.where(s > floor, s / (s.square() + ridge * s[0] ** 2).clamp_min(floor**2), 0) @ v
        return x

    def distance(self, z: Tensor) -> Tensor:
        """Squared, [N]."""
        return (self.mapped(z) - self.w).square().sum(dim=1)

    def mapped(self, z: Tensor) -> Tensor:
        x = normalize_second_moment(z)
        for weight, bias in self.layers:
            y = x @ weight.T + bias
            x = torch.where(y < 0, y * LRELU_SLOPE, y) * SQRT2
        return x

    def jacobian(self, z: Tensor) -> Tensor:
        """Of w by z of the mean square 1, [N,C,Z]; along z itself nothing changes."""
        x = normalize_second_moment(z)
        along = z[:, :, None] * z[:, None] / z.square().sum(dim=1)[:, None, None]
        found = torch.eye(z.shape[1], dtype=z.dtype) - along
        for weight, bias in self.layers:
            y = x @ weight.T + bias
            slope = torch.where(y < 0, LRELU_SLOPE, 1.0) * SQRT2
            x, found = y * slope, slope[:, :, None] * (weight @ found)
        return found

    def descend(self, z: Tensor, enough: Tensor) -> Tensor:
        """Levenberg 1944, Marquardt 1963: Gauss and Newton's step, damped the more the less it holds."""
        off, damping = self.distance(z), torch.full_like(enough, 1e-3)
        for _ in range(MOST):
            going = (off > enough).nonzero()[:, 0]
            if not len(going):
                break
            rows = self.index(going)
            moved = _normal(z[going] + rows.step(z[going], damping[going]))
            nearer = rows.distance(moved)
            better = nearer < off[going]
            z, off, damping = z.clone(), off.clone(), damping.clone()
            z[going[better]], off[going[better]] = moved[better], nearer[better]
            damping[going] = torch.where(better, damping[going] / 4, damping[going] * 4).clamp(1e-12, 1e6)
        return z

    def step(self, z: Tensor, damping: Tensor) -> Tensor:
        jacobian = self.jacobian(z)
        squared = jacobian.mT @ jacobian  # [N,Z,Z]
        scale = squared.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
        squared.diagonal(dim1=1, dim2=2).add_((damping * scale)[:, None])
        return torch.linalg.solve(squared, jacobian.mT @ (self.w - self.mapped(z))[..., None])[..., 0]


def _bias(layer: FullyConnected) -> Tensor:
    return _exact(layer.bias) * layer.lr_multiplier


def _drawn(z: Tensor) -> Tensor:
    """A start that is the same for every row, [N,Z]."""
    return torch.randn(1, z.shape[1], generator=torch.Generator().manual_seed(0)).to(z).expand_as(z)


def _normal(z: Tensor) -> Tensor:
    return z / z.square().mean(dim=1, keepdim=True).sqrt().clamp_min(torch.finfo(z.dtype).tiny)


def _exact(x: Tensor) -> Tensor:
    return x.detach().cpu().double()
