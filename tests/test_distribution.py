"""Precision, recall, Kolmogorov-Smirnov and Frechet distance on sets whose answers are known."""

from __future__ import annotations

import pytest
import torch

from latentopt.errors import StatisticsError
from latentopt.evaluation.distribution import (
    frechet_distance,
    kernel_distance,
    ks_statistics,
    paired_kernel_distance,
    precision_recall,
)


def normal(n, f=4, seed=0):
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed))


def test_a_set_covers_itself():
    assert precision_recall(normal(50), normal(50)) == (1.0, 1.0)


def test_disjoint_sets_cover_nothing():
    assert precision_recall(normal(50), normal(60, seed=1) + 100) == (0.0, 0.0)


def test_a_collapsed_generator_is_precise_without_recall():
    real = normal(200, 2)
    collapsed = real[:1] + 1e-3 * normal(100, 2, seed=1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1.0
    assert recall <= 0.01


def test_balls_by_hand():
    """Real points 0, 1, 10 with k=1: radii 1, 1, 9. Generated 2, 18.5, 40: radii 16.5, 16.5, 21.5."""
    real, generated = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[2.0], [18.5], [40.0]])
    precision, recall = precision_recall(real, generated, k=1)
    assert precision == pytest.approx(2 / 3)  # 2 in the ball around 1, 18.5 in that around 10, 40 in none
    assert recall == 1.0


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_nothing(chunk):
    real, generated = normal(60), normal(45, seed=1) * 1.3
    assert precision_recall(real, generated, chunk=chunk) == precision_recall(real, generated, chunk=45)


@pytest.mark.parametrize(
    ("real", "generated"), [(normal(3), normal(9)), (normal(9), normal(3)), (normal(9, 4), normal(9, 5))]
)
def test_unusable_sets_are_refused(real, generated):
    with pytest.raises(StatisticsError):
        precision_recall(real, generated, k=3)


def test_ks_by_hand():
    first = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    second = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.5, 12.0], [2.6, 13.0]])
    assert ks_statistics(first, second, ("near", "far")) == {"near": 0.25, "far": 1.0}


def test_ks_needs_a_name_for_each_column():
    with pytest.raises(StatisticsError, match="1 names"):
        ks_statistics(normal(5, 2), normal(5, 2), ["one"])


def test_frechet_distance_of_shifted_normals():
    """Equal covariances: the distance is the squared distance of the means, here 4 * 0.5**2."""
    features = normal(500)
    assert frechet_distance(features, features) == 0.0
    assert frechet_distance(features, features + 0.5) == pytest.approx(1.0, abs=1e-6)


def test_frechet_distance_refuses_other_widths():
    with pytest.raises(StatisticsError):
        frechet_distance(normal(9, 3), normal(9, 4))


def kernel(x, y):
    return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_kernel_distance_by_its_formula():
    """Binkowski et al. 2018, equation 4, term by term; one subset of everything leaves nothing to chance."""
    x, y = normal(7, 3), normal(7, 3, seed=1) * 1.5
    within = [mean(kernel(s[i], s[j]) for i in range(7) for j in range(7) if i != j) for s in (x, y)]
    between = mean(kernel(a, b) for a in x for b in y)
    found = kernel_distance(x, y, subsets=3, subset_size=7)
    assert found.mean == pytest.approx(sum(within) - 2 * between, rel=1e-9)
    assert found.std == pytest.approx(0, abs=1e-9)


def test_paired_kernel_distance_by_its_formula():
    """The same without the pairs in the mean between the sets."""
    x, y = normal(7, 3), normal(7, 3, seed=1) * 1.5
    within = [mean(kernel(s[i], s[j]) for i in range(7) for j in range(7) if i != j) for s in (x, y)]
    between = mean(kernel(x[i], y[j]) for i in range(7) for j in range(7) if i != j)
    found = paired_kernel_distance(x, y, subsets=3, subset_size=7)
    assert found.mean == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_kernel_distance_of_two_known_distributions():
    """One feature, x = +-1 and y = +-2: k = (xy + 1)^3, so E k(x,x') = 4, E k(y,y') = 49, E k(x,y) = 13."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randint(2, (1000, 1), generator=rng) * 2.0 - 1 for _ in range(2))
    assert kernel_distance(x, 2 * y, subsets=4, subset_size=900).mean == pytest.approx(4 + 49 - 2 * 13, rel=0.1)
    assert paired_kernel_distance(x, 2 * y, subsets=4, subset_size=900).mean == pytest.approx(4 + 49 - 2 * 13, rel=0.1)


def test_kernel_distance_of_equal_distributions_is_about_zero():
    found = kernel_distance(normal(600), normal(600, seed=1), subset_size=300)
    assert abs(found.mean) < 2 * found.std
    assert found.std > 0


def test_pairs_of_equal_sets_are_no_distance():
    """Compared with their own partners, equal sets would come out below 0."""
    assert paired_kernel_distance(normal(60), normal(60)) == (0.0, 0.0)
    assert kernel_distance(normal(60), normal(60)).mean < -0.1


@pytest.mark.parametrize("distance", [kernel_distance, paired_kernel_distance])
def test_kernel_distance_depends_on_its_seed_alone(distance):
    real, generated = normal(50), normal(50, seed=1) * 1.5
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = distance(real, generated, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    assert distance(real, generated, seed=3) == first
    assert distance(real, generated, seed=4) != first


@pytest.mark.parametrize(
    ("real", "generated", "size"),
    [
        (normal(9, 3), normal(9, 4), None),
        (normal(9), normal(3), None),
        (normal(9), normal(8), 9),
        (normal(9), normal(9), 1),
    ],
)
@pytest.mark.parametrize("distance", [kernel_distance, paired_kernel_distance])
def test_kernel_distance_refuses_unusable_sets(distance, real, generated, size):
    with pytest.raises(StatisticsError):
        distance(real, generated, subset_size=size)


def test_pairs_need_sets_of_one_size():
    with pytest.raises(StatisticsError, match="paired"):
        paired_kernel_distance(normal(9), normal(8))
