"""From what a generator draws to what the domain holds: attribute readings carried to the distribution of real ones.

A generator that was trained too briefly draws every attribute, but too many of them near the middle. Its readings are
carried to those of real portraits jointly, with as little movement as possible. Source of the map: the optimal
transport between Gaussian distributions (Dowson & Landau 1982), here between normal scores.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor


class Transport:
    """Carries readings [B,A], distributed as `start` [n,A], to the distribution of `goal` [m,A].

    Each column becomes normal by its rank in `start`, and a linear map, the nearest one, gives the correlations of the
    goal; ranks again, then quantiles of the goal. The order within a column changes only as the correlations need.
    """

    def __init__(self, start: Tensor, goal: Tensor) -> None:
        self.start, self.goal = _sorted(start), _sorted(goal)
        scores, wanted = _scores(self.start, _array(start)), _scores(self.goal, _array(goal))
        self.map = gaussian_transport(np.corrcoef(scores, rowvar=False), np.corrcoef(wanted, rowvar=False))
        self.moved = np.sort(scores @ self.map, axis=0)

    def __call__(self, readings: Tensor) -> Tensor:
        """Readings [B,A] in float32 or wider, carried."""
        levels = ndtr(_scores(self.moved, _scores(self.start, _array(readings)) @ self.map))
        grid = (np.arange(len(self.goal)) + 0.5) / len(self.goal)
        columns = [np.interp(level, grid, goal) for level, goal in zip(levels.T, self.goal.T, strict=True)]
        return torch.from_numpy(np.stack(columns, axis=1)).to(readings)


def gaussian_transport(start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The symmetric map T [A,A] with `T start T = goal` of two covariances: the least movement in mean square."""
    root = _root(start)
    inverse = np.linalg.inv(root)
    return inverse @ _root(root @ goal @ root) @ inverse


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a covariance [A,A]."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(1e-9))) @ vectors.T


def _array(readings: Tensor) -> np.ndarray:
    return readings.detach().double().cpu().numpy()


def _sorted(readings: Tensor) -> np.ndarray:
    return np.sort(_array(readings), axis=0)


def _scores(sorted_columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Normal scores [B,A] of values [B,A]: the quantile of each in its sorted column [n,A], as a normal variable."""
    n = len(sorted_columns)
    columns = [np.interp(v, s, np.arange(n) + 0.5) for s, v in zip(sorted_columns.T, values.T, strict=True)]
    return ndtri(np.stack(columns, axis=1) / n)
