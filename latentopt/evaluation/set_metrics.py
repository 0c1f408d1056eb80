"""Distances of a set of pictures from the targets, with their intervals over the images."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from latentopt.evaluation.distribution import (
    frechet_distance,
    kernel_distance,
    paired_kernel_distance,
    paired_squared_mmd,
    precision_recall,
    squared_mmd,
)
from latentopt.evaluation.measure import Better, Measure, jackknife_interval
from latentopt.evaluation.sliced_wasserstein import picture_swd
from latentopt.evaluation.subject import Subject

SetDistance = Callable[[Tensor, Tensor], float]

ANY = math.inf
BOUNDS = {"frechet": (0, ANY), "kernel": (-ANY, ANY), "precision": (0, 1), "recall": (0, 1)}
NEIGHBOURS = 3  # of precision and recall
SMALL_SET = "fewer images than features: too high, and comparable at equal n only; go by the kernel distance"


def set_measures(
    prefix: str, subject: Subject, generated: Tensor, pictures: Tensor, *, paired: bool = False
) -> list[Measure]:
    """Frechet, kernel and sliced Wasserstein distance of drawn pictures from the targets, precision and recall.

    generated: features [N,K,F] of K pictures an image, by `subject.extract`, all of which count; Frechet and kernel
    distance are torchmetrics'. pictures: one of an image's [N,3,H,W], for the sliced Wasserstein distance. paired: K = 1,
    and each picture is to be its target: that pair is left out of the kernel distance. Nothing for fewer than 4 images.
    """
    n = len(generated)
    if n < 4:
        return []
    real = subject.target_features  # [N,F]
    kernel, mmd = (paired_kernel_distance, paired_squared_mmd) if paired else (kernel_distance, squared_mmd)
    small = SMALL_SET if n <= real.shape[1] else ""
    flat = generated.flatten(0, 1)
    rows: list[tuple[str, float, SetDistance, Better, str]] = [
        ("frechet", frechet_distance(real, flat), frechet_distance, "lower", small),
        ("kernel", kernel(real, flat, seed=subject.seed).mean, mmd, "lower", ""),
    ]
    if n > NEIGHBOURS + 1:
        rows += [
            ("precision", _precision(real, flat), _precision, "higher", ""),
            ("recall", _recall(real, flat), _recall, "higher", ""),
        ]
    found = []
    for name, value, distance, better, note in rows:

        def without(kept: Tensor, distance: SetDistance = distance) -> float:
            return distance(real[kept], generated[kept].flatten(0, 1))

        low, high = jackknife_interval(value, n, without, bounds=BOUNDS[name])
        found.append(Measure(f"{prefix}_{name}", value, low, high, n, subject.extractor, better, note))
    value, error = picture_swd(subject.targets, pictures, seed=subject.seed)
    low, high = max(0.0, value - 1.96 * error), value + 1.96 * error
    note = f"other patches of the targets themselves are at {subject.swd_floor:.3g}"
    return [*found, Measure(f"{prefix}_swd", value, low, high, n, "7x7 patches", "lower", note)]


def _precision(real: Tensor, generated: Tensor) -> float:
    return precision_recall(real, generated, NEIGHBOURS).precision


def _recall(real: Tensor, generated: Tensor) -> float:
    return precision_recall(real, generated, NEIGHBOURS).recall
