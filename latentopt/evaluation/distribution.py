"""Distances between two sets of images, given as features [N,F] or attribute readings [N,A] of any network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latentopt.errors import StatisticsError


class PrecisionRecall(NamedTuple):
    """Share of the generated set within the real manifold, and of the real set within the generated one."""

    precision: float
    recall: float


@torch.no_grad()
def precision_recall(real: Tensor, generated: Tensor, k: int = 3, chunk: int = 1000) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, equations 1 to 3).

    A set's manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour.

    Args:
        real: [N,F], generated: [M,F]; more than k points each. Both numbers depend on N and M: state them.
        chunk: rows compared at a time; memory is chunk x max(N,M), the result does not depend on it.

    Raises:
        StatisticsError: too few points, or features of different widths.
    """
    for name, points in (("real", real), ("generated", generated)):
        if points.ndim != 2 or len(points) <= k:
            raise StatisticsError(f"{name} features must be [N,F] with N above k={k}, got {tuple(points.shape)}")
    if real.shape[1] != generated.shape[1]:
        raise StatisticsError(f"features differ in width: {real.shape[1]} and {generated.shape[1]}")
    real, generated = real.double(), generated.double()  # differences of near points drown in float32
    return PrecisionRecall(
        precision=_covered(generated, real, _radii(real, k, chunk), chunk),
        recall=_covered(real, generated, _radii(generated, k, chunk), chunk),
    )


EXACT = "donot_use_mm_for_euclid_dist"  # the quick way by a matrix product gives nonzero distances of equal points


def _radii(points: Tensor, k: int, chunk: int) -> Tensor:
    """Distance [N] of each point to its k-th nearest other one."""
    # The nearest of all is the point itself, hence k + 1.
    return torch.cat(
        [torch.cdist(part, points, compute_mode=EXACT).kthvalue(k + 1, dim=1).values for part in points.split(chunk)]
    )


def _covered(queries: Tensor, centres: Tensor, radii: Tensor, chunk: int) -> float:
    """Share of the queries [M,F] that lie within any ball around the centres [N,F]."""
    inside = [
        (torch.cdist(part, centres, compute_mode=EXACT) <= radii).any(dim=1).double() for part in queries.split(chunk)
    ]
    return float(torch.cat(inside).mean())


def ks_statistics(first: Tensor, second: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Two-sample Kolmogorov-Smirnov statistic of each column: the largest gap of the two distribution functions.

    Args:
        first: [N,A], second: [M,A]; names: of the A columns.

    Returns:
        {name: statistic in [0,1]}; 0 for equal distributions.

    Raises:
        StatisticsError: the number of columns and names differ.
    """
    from scipy.stats import ks_2samp

    if not first.shape[1] == second.shape[1] == len(names):
        raise StatisticsError(f"{len(names)} names for readings of {first.shape[1]} and {second.shape[1]} columns")
    columns = zip(names, first.double().cpu().T.numpy(), second.double().cpu().T.numpy(), strict=True)
    return {name: float(ks_2samp(a, b, method="asymp").statistic) for name, a, b in columns}


class Given(torch.nn.Module):
    """A feature network for torchmetrics whose images are features [N,F] already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Frechet distance of two sets of features [N,F] and [M,F] (Heusel et al. 2017), by torchmetrics; 0 for equal sets.

    Raises:
        StatisticsError: fewer than two points in a set, or features of different widths.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_sets(real, generated, 2)
    if torch.equal(real, generated):  # the matrix root would leave a trace of rounding
        return 0.0
    metric = FrechetInceptionDistance(feature=Given(real.shape[1]))
    metric.update(real.cpu().double(), real=True)
    metric.update(generated.cpu().double(), real=False)
    return max(0.0, float(metric.compute()))


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets."""

    mean: float
    std: float


def kernel_distance(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """Kernel distance ("KID", Binkowski et al. 2018) of independent sets of features [N,F] and [M,F], by torchmetrics.

    The unbiased squared MMD with kernel (x.y/F + 1)^3, over random subsets; 0 in the mean for equal distributions,
    where single values may be negative.

    Args:
        subset_size: half of the smaller set by default, 1000 at most.

    Raises:
        StatisticsError: features of different widths, fewer than two points in a subset, or subsets larger than a set.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = _subset_size(real, generated, subset_size)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        torch.manual_seed(seed)  # torchmetrics draws its subsets from the global generator
        metric = KernelInceptionDistance(feature=Given(real.shape[1]), subsets=subsets, subset_size=size)
        metric.update(real.cpu().double(), real=True)
        metric.update(generated.cpu().double(), real=False)
        mean, std = metric.compute()
    return KernelDistance(float(mean), float(std))


def paired_kernel_distance(
    first: Tensor, second: Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """Kernel distance of two sets of features [N,F] whose rows belong together, as drawn from the same latents.

    `kernel_distance` compares each row with its own partner too, which for such sets is biased (below 0 for equal
    ones). Here pairs are left out: the U-statistic of Gretton et al. 2012, lemma 6: 0 for equal sets, and unbiased.

    Raises:
        StatisticsError: sets of different shapes, or as `kernel_distance`.
    """
    size = _subset_size(first, second, subset_size)
    if first.shape != second.shape:
        raise StatisticsError(f"features {tuple(first.shape)} and {tuple(second.shape)} are not paired")
    first, second = first.cpu().double(), second.cpu().double()
    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        rows = torch.randperm(len(first), generator=rng)[:size]
        values.append(paired_squared_mmd(first[rows], second[rows]))
    found = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(found.mean().item(), found.std(unbiased=False).item())


def paired_squared_mmd(x: Tensor, y: Tensor) -> float:
    """Of sets [N,F] whose rows belong together, pairs left out (Gretton et al. 2012, lemma 6): 0 for equal sets."""
    n = len(x)
    between = _kernel(x, y)
    h = _kernel(x, x) + _kernel(y, y) - between - between.T  # [n,n]
    return ((h.sum() - h.trace()) / (n * (n - 1))).item()


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two whole sets [N,F] and [M,F] (Gretton et al. 2012, equation 3), kernel as above."""
    within = sum(((k := _kernel(z, z)).sum() - k.trace()) / (len(z) * (len(z) - 1)) for z in (x, y))
    return (within - 2 * _kernel(x, y).mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _subset_size(first: Tensor, second: Tensor, size: int | None) -> int:
    _check_sets(first, second, 4 if size is None else 2)
    smaller = min(len(first), len(second))
    size = min(1000, smaller // 2) if size is None else size
    if not 2 <= size <= smaller:
        raise StatisticsError(f"subsets of {size} from sets of {len(first)} and {len(second)}: need 2 to {smaller}")
    return size


def _check_sets(first: Tensor, second: Tensor, least: int) -> None:
    if first.shape[1] != second.shape[1] or min(len(first), len(second)) < least:
        raise StatisticsError(f"cannot compare features {tuple(first.shape)} and {tuple(second.shape)}")
