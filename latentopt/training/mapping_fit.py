"""The first step of a warm start: a mapping that leads each z to the w that its portrait is drawn from by and large.

w is regressed on attributes: in a generator that knows nothing of portraits' latents, on those that are read in its own
pictures; in one that comes from an earlier warm start, on those of its latents' portraits. Where weights are random, so
is that function. The mapping then learns, without any picture, that linear function of attributes and a small one of
what no attribute decides. A generator of recall 0.05 draws its portraits at an l1 of 0.18 after it; one that had learnt
44,000 of them went from 0.088 to 0.072.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.data.portraits import NAMES, attributes_of
from latentopt.generators.layers import MappingNetwork
from latentopt.perceptual.network import PerceptualNet
from latentopt.training.building import TrainedGenerator
from latentopt.training.portrait_latents import PortraitLatents
from latentopt.types import GeneratorInputs

BATCH, RATE, BETAS = 256, 2.0, (0.9, 0.99)
STRENGTH = 1.3  # at least, of each direction of attributes in w: what moves w little is learnt slowly
LEFT_OVER = 0.3  # of what the attributes that were read do not explain in w
DRAWN_AT_ONCE = 64


class LinearW(NamedTuple):
    """w [B,C] as a linear function: of standardised attributes [B,A] with a 1 behind them, and of what they leave free.

    of_attributes  [A+1,C]
    of_free        [Z-A,C]
    """

    of_attributes: Tensor
    of_free: Tensor

    def __call__(self, attributes: Tensor, free: Tensor) -> Tensor:
        return _with_one(attributes) @ self.of_attributes + free @ self.of_free


@torch.no_grad()
def read_w(generator: TrainedGenerator, net: PerceptualNet, fitted: int) -> LinearW:
    """From the readings of so many pictures. No direction of attributes is weak; the free part is at right angles."""
    w = generator.mapping(torch.randn(fitted, generator.z_dim, device=generator.device))
    inputs = (GeneratorInputs(generator.broadcast(part)) for part in w.split(DRAWN_AT_ONCE))
    read = [net.read(generator.synthesis(part, "none").float().clamp(-1, 1)) for part in inputs]
    x = _with_one(_standardised(torch.cat(read), net)).cpu()  # where all decompositions are at hand
    w = w.cpu()
    map_ = _least_squares(x, w)
    left, strengths, right = torch.linalg.svd(map_[:-1], full_matrices=False)  # [A,A], [A], [A,C]
    strong = torch.cat([(left * strengths.clamp_min(STRENGTH)) @ right, map_[-1:]])
    values, vectors = torch.linalg.eigh(torch.cov((w - x @ map_).T))
    factor = (vectors * values.clamp_min(0).sqrt()).flip(1).T  # [C,C], the largest first
    factor = LEFT_OVER * (factor - factor @ right.T @ right)
    free = generator.z_dim - len(NAMES)
    factor = torch.cat([factor, factor.new_zeros(free, factor.shape[1])])[:free]
    return LinearW(strong.to(generator.device), factor.to(generator.device))


@torch.no_grad()
def known_w(generator: TrainedGenerator, net: PerceptualNet, latents: PortraitLatents, fitted: int) -> LinearW:
    """From the portraits of so many latents, for a generator that has learnt them."""
    z = torch.randn(fitted, generator.z_dim, device=generator.device)
    normals, free = latents.parts(z)
    x = torch.cat([_with_one(_standardised(attributes_of(normals), net)), free], dim=1)
    map_ = _least_squares(x.cpu(), generator.mapping(z).cpu()).to(generator.device)
    return LinearW(*map_.tensor_split([len(NAMES) + 1]))


def random_w(z_dim: int, w_dim: int, device: torch.device | str = "cpu") -> LinearW:
    """For a generator with random weights, in which no direction means anything yet: right angles, evenly strong."""
    side = max(z_dim, w_dim)
    rows = torch.linalg.qr(torch.randn(side, side))[0][:z_dim, :w_dim]
    attributes, free = rows.tensor_split([len(NAMES)])
    return LinearW(_with_bias(STRENGTH * attributes).to(device), (LEFT_OVER * free).to(device))


def fit_mapping(
    mapping: MappingNetwork, goal: LinearW, net: PerceptualNet, latents: PortraitLatents, steps: int
) -> list[float]:
    """Train a mapping in place towards `goal`; random numbers are torch's own. Returns the loss of each step."""
    optimizer = torch.optim.Adam(mapping.parameters(), lr=RATE, betas=BETAS)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        z = torch.randn(BATCH, mapping.z_dim, device=goal.of_free.device)
        normals, free = latents.parts(z)
        loss = F.mse_loss(mapping(z), goal(_standardised(attributes_of(normals), net), free))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _with_bias(map_: Tensor) -> Tensor:
    return torch.cat([map_, torch.zeros_like(map_[:1])])


def _standardised(attributes: Tensor, net: PerceptualNet) -> Tensor:
    return (attributes - net.mean) / net.std


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.lstsq(x, y, driver="gelsd").solution


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
