"""Fitting the linear prior: samples with mixed styles, pooled features, a ridge regression by cross-validation.

Sample i depends on the seed and i alone, so neither memory nor the result (but for rounding) depends on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.statistics.linear_prior import LinearPrior, PooledFeatures
from latentopt.statistics.pnorm import PNorm
from latentopt.statistics.streams import stream
from latentopt.types import GeneratorInputs

FOLDS = 4
BLOCK = 500  # samples added to the sums at once; block i belongs to fold i modulo FOLDS
RANK = 96  # of the stored regression
RIDGES = tuple(10 ** (exponent / 2) for exponent in range(-8, 7))  # 1e-4 to 1e3, for features of variance 1
FIRST_RIDGE = 6  # 0.1: the search goes up or down from here
PURPOSE = 2  # keeps the streams apart from those of other fits with the same seed


@dataclass
class Sums:
    """n, sums and products of x [n,D] and y [n,K] in float64; of y y^T only the diagonal."""

    n: int
    x: Tensor  # [D]
    y: Tensor  # [K]
    xx: Tensor  # [D,D]
    xy: Tensor  # [D,K]
    yy: Tensor  # [K]

    @staticmethod
    def zeros(d: int, k: int) -> Sums:
        return Sums(0, *(torch.zeros(shape, dtype=torch.float64) for shape in ((d,), (k,), (d, d), (d, k), (k,))))

    def add_(self, x: Tensor, y: Tensor) -> None:
        self.n += len(x)
        self.x += x.sum(dim=0)
        self.y += y.sum(dim=0)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy += y.square().sum(dim=0)

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """The sums of both, or with sign -1 of what is not in `other`."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Sums(*(a + sign * b for a, b in pairs))

    @property
    def covariance(self) -> Tensor:
        """Of x, [D,D]."""
        return self.xx / self.n - torch.outer(self.x, self.x) / self.n**2

    def ridge(self, strength: float) -> tuple[Tensor, Tensor]:
        """Slopes b [D,K] and intercept a [K] that minimise mean |y - a - x b|^2 + strength * |b|^2."""
        a = self.covariance
        a.diagonal().add_(strength)
        b = torch.cholesky_solve(self.xy / self.n - torch.outer(self.x, self.y) / self.n**2, torch.linalg.cholesky(a))
        return b, (self.y - self.x @ b) / self.n

    def residual(self, b: Tensor, a: Tensor) -> Tensor:
        """Sum over the samples of (y - a - x b)^2, [K]."""
        fitted = (b * (self.xx @ b)).sum(dim=0) + self.n * a.square() + 2 * a * (self.x @ b)
        return self.yy - 2 * (b * self.xy).sum(dim=0) - 2 * a * self.y + fitted

    def spread(self, mean: Tensor) -> Tensor:
        """Sum of (y - mean)^2, [K]."""
        return self.yy - 2 * mean * self.y + self.n * mean.square()


def draw_mixed(generator: Generator, indices: range, seed: int = 0) -> Tensor:
    """ws [B,L,C]: half of the samples have one code, half have one up to a random layer and another after it.

    Mixed, as in the training of StyleGANs (Karras et al. 2019, section 3.1): real pictures are inverted with a code a
    layer, and the layers' codes can be told apart only where they differ.
    """
    z, layers, labels = [], [], []
    for i in indices:
        rng = stream(seed, PURPOSE, i)
        z.append(torch.randn(2, generator.z_dim, generator=rng))
        mixed = torch.rand(1, generator=rng).item() < 0.5 and generator.num_ws > 1
        layers.append(
            torch.randint(1, generator.num_ws, (1,), generator=rng) if mixed else torch.tensor([generator.num_ws])
        )
        labels.append(torch.randint(max(generator.c_dim, 1), (1,), generator=rng).expand(2))
    c = None
    if generator.c_dim:
        c = F.one_hot(torch.cat(labels), generator.c_dim).to(generator.device, torch.float32)
    with torch.no_grad():
        w = generator.mapping(torch.cat(z).to(generator.device), c).unflatten(0, (-1, 2))  # [B,2,C]
    first = torch.arange(generator.num_ws) < torch.stack(layers)  # [B,L]
    return torch.where(first.to(w.device)[..., None], w[:, :1], w[:, 1:])


def draw_block(
    generator: Generator, features: PooledFeatures, pnorm: PNorm, indices: range, seed: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Features x [n,D] and whitened codes y [n,L*C] of those samples, float64 on the CPU."""
    x, y = [], []
    for start in range(indices.start, indices.stop, batch):
        ws = draw_mixed(generator, range(start, min(start + batch, indices.stop)), seed)
        with torch.no_grad():
            x.append(features(generator.synthesis(GeneratorInputs(ws)).clamp(-1, 1)).cpu().double())
        y.append(pnorm.whiten(ws.cpu().double()).flatten(1))
    return torch.cat(x), torch.cat(y)


def fit_prior(
    generator: Generator,
    pnorm: PNorm,
    features: PooledFeatures,
    *,
    samples: int = 20_000,
    seed: int = 0,
    batch: int | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> LinearPrior:
    """The linear prior of `generator` from `features` to the coordinates of `pnorm`, from that many samples.

    `batch`: pictures at once (by default, as many as 2 million pixels hold, at most 32). `on_progress` is called with
    the number of samples after each block. Raises UsageError for fewer samples than the folds need.
    """
    if samples < 2 * FOLDS:
        raise UsageError(f"a linear prior needs {2 * FOLDS} samples at least, not {samples}; a good number is 20,000")
    height, width = generator.resolution
    batch = batch or max(1, min(32, 2**21 // (height * width)))
    folds: list[Sums] = []
    for index, block in enumerate(_blocks(samples)):
        x, y = draw_block(generator, features, pnorm, block, seed, batch)
        if not folds:
            mean, scale = x.mean(dim=0), x.std(dim=0)
            scale = torch.where(scale > 1e-6 * scale.max(), scale, 1.0)
            folds = [Sums.zeros(x.shape[1], y.shape[1]) for _ in range(FOLDS)]
        folds[index % FOLDS].add_((x - mean) / scale, y)
        if on_progress is not None:
            on_progress(len(block))
    variance = pnorm.std.square().repeat(generator.num_ws)  # [L*C], of each coordinate in P
    strength, explained, share = choose_ridge(folds, variance)
    total = _total(folds)
    b, a = total.ridge(strength)
    reduce, expand = reduce_rank(b, total.covariance, variance, RANK)
    return LinearPrior(
        reduce=reduce,
        expand=expand.unflatten(1, (generator.num_ws, -1)),
        intercept=a.unflatten(0, (generator.num_ws, -1)),
        feature_mean=mean,
        feature_scale=scale,
        mean=pnorm.mean,
        components=pnorm.components,
        std=pnorm.std,
        r2=explained.unflatten(0, (generator.num_ws, -1)).mean(dim=0),
        fingerprint=generator.fingerprint,
        network=features.network,
        grids=features.grids,
        slope=pnorm.slope,
        card={
            "name": generator.name,
            "n": samples,
            "seed": seed,
            "ridge": strength,
            "share": share,
            "folds": FOLDS,
            "rank": reduce.shape[1],
        },
    )


def _blocks(samples: int) -> Iterator[range]:
    """All samples in blocks, at least one a fold."""
    size = min(BLOCK, samples // FOLDS)
    for start in range(0, samples, size):
        yield range(start, min(start + size, samples))


def _total(folds: list[Sums]) -> Sums:
    total = folds[0]
    for fold in folds[1:]:
        total = total.plus(fold)
    return total


def choose_ridge(folds: list[Sums], variance: Tensor) -> tuple[float, Tensor, float]:
    """The strength that explains most, with each fold predicted from the others; R^2 of each y [K]; and of all.

    `variance` [K] weighs the (whitened) y: by their variance in P the share counts directions as the picture does. The
    share has one maximum over the strength, in practice: the search climbs from 0.1 on `RIDGES`.
    """
    total = _total(folds)
    scores: dict[int, tuple[float, Tensor]] = {}

    def score(index: int) -> float:
        if not 0 <= index < len(RIDGES):
            return -float("inf")
        if index not in scores:
            residual = spread = torch.zeros_like(variance)
            for fold in folds:
                rest = total.plus(fold, -1)
                residual = residual + fold.residual(*rest.ridge(RIDGES[index]))
                spread = spread + fold.spread(rest.y / rest.n)
            share = 1 - (variance @ residual / (variance @ spread)).item()
            scores[index] = share, 1 - residual / spread
        return scores[index][0]

    best = FIRST_RIDGE
    for step in (1, -1):
        while score(best + step) > score(best):
            best += step
    return RIDGES[best], scores[best][1], scores[best][0]


def reduce_rank(b: Tensor, covariance: Tensor, variance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """b [D,K] as reduce [D,R] times expand [R,K]: the best of that rank for the predictions x b (Izenman 1975).

    Predictions have the covariance b^T covariance b. They are projected on its leading axes with each y weighed by its
    `variance` [K]: on those of the whitened codes themselves, twice the rank would be needed for pictures as near.
    """
    ridge = 1e-12 * covariance.diagonal().mean()
    root = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
    m = root.T @ b  # [D,K], m^T m is the covariance of the predictions
    weighed = m * variance.sqrt()
    energy, left = torch.linalg.eigh(weighed @ weighed.T)
    kept, left = energy[-rank:].flip(0), left[:, -rank:].flip(1)
    kept, left = (x[..., kept > 1e-12 * kept[0]] for x in (kept, left))
    axes = (left.T @ weighed) / kept.sqrt()[:, None]  # [R,K], orthonormal rows
    reduce = b * variance.sqrt() @ axes.T / kept.sqrt()  # x reduce: the scores, of variance 1
    return reduce, left.T @ m  # their regression on the predictions
