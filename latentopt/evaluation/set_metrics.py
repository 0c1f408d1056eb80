"""Distances of a set of pictures from the targets, with their intervals over the images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentopt.evaluation.distribution import (
    frechet_distance,
    kernel_distance,
    paired_kernel_distance,
    paired_squared_mmd,
    squared_mmd,
)
from latentopt.evaluation.measure import Measure, jackknife_interval
from latentopt.evaluation.sliced_wasserstein import picture_swd
from latentopt.evaluation.subject import Subject

SMALL_SET = "fewer images than features: too high, and comparable at equal n only; go by the kernel distance"


def set_measures(prefix: str, subject: Subject, pictures: Tensor, *, paired: bool = False) -> list[Measure]:
    """Frechet, kernel and sliced Wasserstein distance of pictures [N,K,3,H,W], K an image, from the targets.

    Frechet and kernel distance come from torchmetrics, on the features of `subject.extract`; paired: K = 1, and each
    picture is to be its target, which the kernel distance then leaves out. Nothing for fewer than 4 images.
    """
    n, k = pictures.shape[:2]
    if n < 4:
        return []
    real = subject.target_features  # [N,F]
    generated = subject.features(pictures.flatten(0, 1)).unflatten(0, (n, k))  # [N,K,F]
    kernel, mmd = (paired_kernel_distance, paired_squared_mmd) if paired else (kernel_distance, squared_mmd)
    small = SMALL_SET if n <= real.shape[1] else ""
    distances: list[tuple[str, float, Callable[[Tensor, Tensor], float], str]] = [
        ("frechet", frechet_distance(real, generated.flatten(0, 1)), frechet_distance, small),
        ("kernel", kernel(real, generated.flatten(0, 1), seed=subject.seed).mean, mmd, ""),
    ]
    found = []
    for name, value, distance, note in distances:

        def without(rows: Tensor, distance: Callable[[Tensor, Tensor], float] = distance) -> float:
            return distance(real[rows], generated[rows].flatten(0, 1))

        low, high = jackknife_interval(value, n, without)
        found.append(Measure(f"{prefix}_{name}", value, low, high, n, subject.extractor, "lower", note))
    found.append(_swd(prefix, subject.targets, pictures, subject.seed))
    return found


def _swd(prefix: str, targets: Tensor, pictures: Tensor, seed: int) -> Measure:
    """Of one picture an image, the k-th of image i with k = i mod K: equally many on both sides. Interval: see picture_swd."""
    n, k = pictures.shape[:2]
    rows = torch.arange(n)
    value, error = picture_swd(targets, pictures[rows, rows % k], seed=seed)
    return Measure(f"{prefix}_swd", value, value - 1.96 * error, value + 1.96 * error, n, "7x7 patches", "lower")
