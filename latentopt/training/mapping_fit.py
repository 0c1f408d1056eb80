"""The first step of a warm start: a mapping that leads each z to the w that its portrait is drawn from by and large.

What the generator draws of its own latents is read; w is regressed on the readings, and directions that turn out weak
are strengthened, since what moves w little is learnt slowly. The mapping then learns, without any picture, that linear
function of the attributes of z's portrait and, at right angles to it, a small part of what is left over.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.data.portraits import NAMES, attributes_of
from latentopt.generators.layers import MappingNetwork
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.perceptual.network import PerceptualNet
from latentopt.training.portrait_latents import PortraitLatents
from latentopt.types import GeneratorInputs

BATCH, RATE, BETAS = 512, 0.2, (0.9, 0.99)
STRENGTH = 1.3  # at least, of each direction of attributes in w: of the order of the strongest ones
LEFT_OVER = 0.3  # of what the attributes do not explain in w
DRAWN_AT_ONCE = 64


@torch.no_grad()
def portrait_w(generator: StyleGAN2, net: PerceptualNet, fitted: int) -> tuple[Tensor, Tensor]:
    """What attributes are in w, from so many pictures.

    Returns:
        The linear map [A+1,C] from standardised attributes, with a 1 behind them, to w, no direction of it weak; and a
        factor [C,C] of the covariance that is left over at right angles to it, largest directions first.
    """
    w = generator.mapping(torch.randn(fitted, generator.z_dim, device=generator.device))
    inputs = (GeneratorInputs(generator.broadcast(part)) for part in w.split(DRAWN_AT_ONCE))
    read = [net.read(generator.synthesis(part, "none").float().clamp(-1, 1)) for part in inputs]
    x = _with_one((torch.cat(read) - net.mean) / net.std).cpu()  # where all decompositions are at hand
    w = w.cpu()
    map_ = torch.linalg.lstsq(x, w, driver="gelsd").solution
    left, strengths, right = torch.linalg.svd(map_[:-1], full_matrices=False)  # [A,A], [A], [A,C]
    values, vectors = torch.linalg.eigh(torch.cov((w - x @ map_).T))
    factor = (vectors * values.clamp_min(0).sqrt()).flip(1).T  # [C,C]
    strong = (left * strengths.clamp_min(STRENGTH)) @ right
    return torch.cat([strong, map_[-1:]]), factor - factor @ right.T @ right


def learn_mapping(
    mapping: MappingNetwork, latents: PortraitLatents, map_: Tensor, factor: Tensor, net: PerceptualNet, steps: int
) -> list[float]:
    """Train a mapping in place towards what `portrait_w` found; random numbers are torch's own.

    Returns the loss of each step.
    """
    free = min(mapping.z_dim - len(NAMES), len(factor))
    optimizer = torch.optim.Adam(mapping.parameters(), lr=RATE, betas=BETAS)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        normals, rest = latents.parts(z := torch.randn(BATCH, mapping.z_dim, device=map_.device))
        goal = _with_one((attributes_of(normals) - net.mean) / net.std) @ map_
        goal = goal + LEFT_OVER * rest[:, :free] @ factor[:free]
        loss = F.mse_loss(mapping(z), goal)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fit_mapping(generator: StyleGAN2, net: PerceptualNet, latents: PortraitLatents, fitted: int, steps: int) -> None:
    """Train the generator's mapping in place, after `fitted` of its own pictures."""
    map_, factor = (x.to(generator.device) for x in portrait_w(generator, net, fitted))
    learn_mapping(generator.mapping, latents, map_, factor, net, steps)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
