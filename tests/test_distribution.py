"""Precision, recall, Kolmogorov-Smirnov and Frechet distance on sets whose answers are known."""

from __future__ import annotations

import pytest
import torch

from latentopt.errors import StatisticsError
from latentopt.evaluation.distribution import frechet_distance, ks_statistics, precision_recall


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
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 0.5) == pytest.approx(1.0, abs=1e-6)


def test_frechet_distance_refuses_other_widths():
    with pytest.raises(StatisticsError):
        frechet_distance(normal(9, 3), normal(9, 4))
