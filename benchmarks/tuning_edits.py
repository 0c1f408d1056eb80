"""Four orthogonal directions of w in which the picture changes most, for one image (WRanGAN, figure 1).

The paper does not say how they were found. Here: the leading right singular vectors of the Jacobian of the untouched
generator's picture with respect to w at the pivot, by central differences along every axis of w. A step goes two
standard deviations of W along the direction, towards the mean of W, so that it is an edit of typical size within the
cloud.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.protocols import Generator
from latentopt.statistics.sampling import sample_w, w_std
from latentopt.types import GeneratorInputs

EDITS = 4
DEVIATIONS = 2.0
STEP = 0.02  # of the difference quotient, in radii of the cloud of w
SAMPLES, SEED = 10_000, 0
BATCH = 24


@torch.no_grad()
def edits_of(generator: Generator, ws: Tensor) -> Tensor:
    """The four shifts of w [4,C] of an image whose ws are [1,L,C]; they are orthogonal."""
    change = jacobian(generator, ws)  # [C,D]
    _, vectors = torch.linalg.eigh(change @ change.T)  # of rising eigenvalues
    directions = vectors.T.flip(0)[:EDITS].float()  # [4,C]
    w = sample_w(generator, SEED, SAMPLES)
    deviation = ((w - w.mean(dim=0)) @ directions.T).std(dim=0)  # [4]
    towards = (directions @ (generator.w_avg - ws[0].mean(dim=0))).sign()
    towards = torch.where(towards == 0, torch.ones_like(towards), towards)
    return DEVIATIONS * (deviation * towards)[:, None] * directions


def jacobian(generator: Generator, ws: Tensor) -> Tensor:
    """d picture / d w at ws [1,L,C], the same move in every row: float64 [C,D]."""
    h = STEP * w_std(generator)
    axes = h * torch.eye(ws.shape[2], device=ws.device)[:, None]  # [C,1,C]
    rows = []
    for part in axes.split(BATCH):
        ahead, behind = (generator.synthesis(GeneratorInputs(ws + sign * part)) for sign in (1, -1))
        rows.append((ahead - behind).double().flatten(1) / (2 * h))
    return torch.cat(rows)


@torch.no_grad()
def edited(generator: Generator, inputs: GeneratorInputs, edits: Tensor) -> Tensor:
    """Pictures [B,4,3,H,W] of B images' inputs moved by each of their edits [B,4,C]."""
    moved = [inputs.replace(ws=inputs.ws + shift[:, None]) for shift in edits.unbind(1)]
    return torch.stack([generator.synthesis(x).float() for x in moved], dim=1)
