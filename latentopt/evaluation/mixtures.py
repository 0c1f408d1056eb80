"""Interpolation and style mixing of embeddings (Zhu et al. 2020, 4.4.4 and 4.4.5): how far the pictures are from photos."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.evaluation.set_metrics import set_measures
from latentopt.evaluation.subject import Found, Subject
from latentopt.pnorm import PNorm

COARSE = 7 / 18  # share of the rows that style mixing takes from the first image


@torch.no_grad()
def interpolation(subject: Subject) -> Found:
    """Table 2: pictures evenly along the way from each embedding to its partners, in W+ and in P-norm+, against the targets.

    Partners are the generator's samples (4.4.4) or the other embeddings (Figure 13). The ends are not among the pictures:
    of the embedding itself the reconstruction tells, and Table 5 has "the middle samples".
    """
    if subject.partners == "embeddings" and len(subject.inputs) < 2:
        return Found(notes=["interpolation: left out, a single image has no partner; partners may be samples"])
    found = Found()
    steps = subject.amounts.steps
    shares = torch.arange(1, steps + 1) / (steps + 1)
    for space in ("w+", "p-norm+"):
        if space == "p-norm+" and subject.pnorm is None:
            found.notes.append("interpolation in p-norm+: left out, no P-norm statistics; run latentopt fit-pnorm")
            continue
        pnorm = subject.pnorm if space == "p-norm+" else None
        features, pictures = [], []
        for i, inputs in enumerate(subject.inputs):
            ways = [torch.cat([between(inputs.ws, to, t, pnorm) for t in shares.tolist()]) for to in _ends(subject, i)]
            drawn = subject.draw(i, torch.cat(ways))
            features.append(subject.features(drawn))
            pictures.append(drawn[i % len(drawn)])
        found.measures += set_measures(f"interpolation_{space}", subject, torch.stack(features), torch.stack(pictures))
    return found


def between(first: Tensor, second: Tensor, t: float, pnorm: PNorm | None = None) -> Tensor:
    """The latents [B,L,C] at t in [0,1] on the straight line in W+ or, with statistics, in P-norm+ (in float64)."""
    if pnorm is None:
        return first + t * (second - first)
    a, b = (pnorm.whiten(ws.double().cpu()) for ws in (first, second))
    return pnorm.unwhiten(a + t * (b - a)).to(first)


def _ends(subject: Subject, i: int) -> list[Tensor]:
    """ws [1,L,C] of image i's partners; every image has others."""
    if subject.partners == "embeddings":
        return [subject.ws[j : j + 1] for j in others(len(subject.inputs), i, subject.amounts.partners, subject.seed)]
    count = len(subject.samples)
    rows = [(i * subject.amounts.partners + k) % count for k in range(subject.amounts.partners)]
    return [subject.samples[row : row + 1] for row in rows]


def others(n: int, i: int, count: int, seed: int) -> list[int]:
    """`count` other images than i of n, or as many as there are: those after it in a random circle."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    at = order.index(i)
    return [order[(at + k) % n] for k in range(1, min(count, n - 1) + 1)]


@torch.no_grad()
def mixing(subject: Subject) -> Found:
    """Table 3: the first 7 of 18 rows of one embedding (proportionally) with the others of another one, against the targets.

    Noise and changed weights are the first one's.
    """
    n = len(subject.inputs)
    if n < 4:
        return Found(notes=["mixing: left out, it needs at least 4 images"])
    split = max(1, round(COARSE * subject.generator.num_ws))
    features, pictures = [], []
    for i, inputs in enumerate(subject.inputs):
        rest = [subject.ws[j : j + 1, split:] for j in others(n, i, subject.amounts.partners, subject.seed)]
        drawn = subject.draw(i, torch.cat([torch.cat([inputs.ws[:, :split], style], dim=1) for style in rest]))
        features.append(subject.features(drawn))
        pictures.append(drawn[i % len(drawn)])
    return Found(set_measures("mixing", subject, torch.stack(features), torch.stack(pictures)))
