"""Mean and covariance of a stream in float64: memory does not grow with the samples, parts can be merged."""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor

from latentopt.errors import StatisticsError


class StatisticsWarning(UserWarning):
    """Statistics that can be used, with care."""


class Moments:
    """Count, mean [C] and scatter sum (x - mean)(x - mean)^T [C,C] of the rows seen.

    Batches are shifted by the running mean before they are squared, so nothing cancels (the textbook E[xx] - E[x]E[x]
    in float32 even gives negative variances for a mapping network). One symmetric rank-k update (BLAS syrk, half the
    work of a product) a batch: for 512 dimensions a small part of an eight-layer mapping pass.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self._upper = np.zeros((dim, dim), order="F")  # upper triangle of the scatter; Fortran order for BLAS

    def update(self, batch: Tensor) -> None:
        """Add the rows of `batch` [n,C]; it may be on any device and of any floating type.

        All of them or, where an exception such as KeyboardInterrupt comes in between, none.
        """
        rows = batch.detach().cpu()
        if len(rows) == 0:
            return
        from scipy.linalg.blas import dsyrk  # late: others only read what was measured

        x = (rows if rows.element_size() >= 4 else rows.float()).numpy()
        mean = self.mean if self.count else x.mean(axis=0, dtype=np.float64)
        shifted = x - mean  # [n,C] float64
        count = self.count + len(x)
        step = shifted.sum(axis=0) / count
        # about the old mean the scatter is S + d^T d; moving it to the new mean takes count * step step^T away
        upper = dsyrk(1.0, shifted.T, beta=1.0, c=self._upper)
        upper -= count * np.outer(step, step)
        self._set(count, mean + step, upper)

    def merge(self, other: Moments) -> None:
        """Add the rows that `other` saw (Chan, Golub and LeVeque 1983)."""
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        upper = self._upper + other._upper + (self.count * other.count / total) * np.outer(delta, delta)
        self._set(total, self.mean + delta * (other.count / total), np.asfortranarray(upper))

    def _set(self, count: int, mean: np.ndarray, upper: np.ndarray) -> None:
        # nothing is called between these: Python handles signals at calls and loops, so Ctrl-C sees all three or none
        self.count, self.mean, self._upper = count, mean, upper

    @property
    def scatter(self) -> np.ndarray:
        """[C,C], both triangles."""
        upper = np.triu(self._upper)
        return upper + np.triu(upper, 1).T

    @property
    def covariance(self) -> np.ndarray:
        """[C,C], divided by count - 1. Raises StatisticsError for fewer than two rows."""
        if self.count < 2:
            raise StatisticsError(f"a covariance needs two samples at least, not {self.count}")
        return self.scatter / (self.count - 1)

    @staticmethod
    def restore(count: int, mean: np.ndarray, scatter: np.ndarray) -> Moments:
        """The moments with these values, for going on after an interruption."""
        moments = Moments(len(mean))
        moments.count, moments.mean = count, mean.astype(np.float64)
        moments._upper = np.asfortranarray(np.triu(scatter))
        return moments


def principal_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components [C,C], orthonormal rows by falling std, and std [C].

    The sign of a component is arbitrary: its entry of largest magnitude is made positive. Raises StatisticsError for
    values that are not finite or all equal; see `floored` for singular covariances.
    """
    if not np.isfinite(covariance).all():
        raise StatisticsError("the samples hold values that are not finite")
    import scipy.linalg

    variance, vectors = scipy.linalg.eigh(covariance)  # ascending; columns
    components = vectors[:, ::-1].T
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    return components * np.sign(largest), floored(np.sqrt(variance[::-1].clip(0)))


def floored(std: np.ndarray) -> np.ndarray:
    """`std` [C], falling, with what float64 cannot tell from zero raised to that level; warns if that happens."""
    if not std[0] > 0:
        raise StatisticsError("the samples do not vary")
    floor = std[0] * np.sqrt(len(std) * np.finfo(np.float64).eps)
    if std[-1] < floor:
        condition = np.inf if std[-1] == 0 else (std[0] / std[-1]) ** 2
        warnings.warn(
            f"singular covariance (condition number {condition:.2g}): {int((std < floor).sum())} of {len(std)} std "
            f"raised to {floor:.2g}; whiten with std_floor or rank",
            StatisticsWarning,
            stacklevel=3,
        )
    return std.clip(floor)
