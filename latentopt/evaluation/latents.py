"""Where latents lie: radius, densities and outliers in P-norm+ (Zhu et al. 2020, 4.7), variation over rows (e4e)."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.evaluation.measure import Better, measure_mean
from latentopt.evaluation.subject import SAMPLES_SEED, Found, Subject
from latentopt.statistics.pnorm import PNORM, PNorm
from latentopt.statistics.sampling import sample_w

FIRST = 10  # dimensions, of Figure 7
SAMPLES = 10_000  # behind the histogram of the generator's own
LAST = 50 / 512  # share of the dimensions, of Figure 8
OUTLIER = 3.0  # standard deviations; a Gaussian has 0.27 % beyond
EDGES = torch.linspace(-6, 6, 61)


@torch.no_grad()
def latents(subject: Subject) -> Found:
    """Latent variation; radius, of all and of the first 10 dimensions; outliers, in all and in the last 50 of 512.

    The radius is a root mean square: 1 for the generator's samples. Curves: densities of the first dimension (Figure
    6), of the last ones (Figure 8) and of all, for the embeddings and the generator's samples.
    """
    values = {"latent_variation": latent_variation(subject.ws)}
    found = Found()
    if subject.pnorm is None:
        run = PNORM.to_make(subject.generator)
        found.notes.append(f"P-norm: left out, no statistics of this generator; run {run}")
    else:
        v = subject.pnorm.whiten(subject.ws.cpu().double())  # [N,L,C]
        last = max(1, round(LAST * v.shape[2]))
        values["radius"] = pnorm_radius(subject.ws, subject.pnorm)
        values["radius_first"] = v[..., :FIRST].square().mean(dim=(1, 2)).sqrt()
        values["outliers"] = outliers(v)
        values["outliers_last"] = outliers(v[..., -last:])
        w = sample_w(subject.generator, SAMPLES_SEED, SAMPLES)  # all rows of a sample are the same
        samples = subject.pnorm.whiten(w.cpu().double())[:, None]
        found.curves["p-norm"] = {"edges": EDGES.tolist()} | {
            name: {"first": density(x[..., :1]), "last": density(x[..., -last:]), "all": density(x)}
            for name, x in (("embeddings", v), ("samples", samples))
        }
    for name, column in values.items():
        better: Better = "lower" if name.startswith(("outliers", "latent")) else "neither"
        found.measures.append(measure_mean(name, column, better=better, seed=subject.seed))
    found.rows = [
        dict(zip(values, row, strict=True)) for row in zip(*(x.tolist() for x in values.values()), strict=True)
    ]
    return found


def latent_variation(ws: Tensor) -> Tensor:
    """||w - mean over rows||_2 of each image, ws [B,L,C] -> [B]: 0 in W (e4e, section 8.2)."""
    return (ws - ws.mean(dim=1, keepdim=True)).cpu().double().flatten(1).norm(dim=1)


def pnorm_radius(ws: Tensor, pnorm: PNorm) -> Tensor:
    """Root mean square [B] of the P-norm+ codes: about 1 for the generator's own samples, more for latents far off."""
    return pnorm.whiten(ws.cpu().double()).square().mean(dim=(1, 2)).sqrt()


def outliers(v: Tensor) -> Tensor:
    """Share [N] of the entries of v [N,L,C] beyond 3 standard deviations."""
    return (v.abs() > OUTLIER).double().mean(dim=(1, 2))


def density(values: Tensor) -> list[float]:
    """Histogram over EDGES as a density; what lies beyond is counted in the outermost bins, where outliers show."""
    edges = EDGES.double()
    inside = values.double().flatten().clamp(edges[0], edges[-1])
    counts = torch.histogram(inside, edges).hist
    return (counts / counts.sum() / edges.diff()).tolist()
