"""Distances of a set of pictures from the targets, with their intervals over the images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from latentopt.evaluation.distribution import (
    frechet_distance,
    kernel_distance,
    paired_kernel_distance,
    paired_squared_mmd,
    precision_recall,
    squared_mmd,
)
from latentopt.evaluation.measure import UNREAD, Better, Measure, jackknife_interval
from latentopt.evaluation.sliced_wasserstein import picture_swd
from latentopt.evaluation.subject import Subject

SetDistance = Callable[[Tensor, Tensor], float]

ANY = math.inf
BOUNDS = {"frechet": (0, ANY), "kernel": (-ANY, ANY), "precision": (0, 1), "recall": (0, 1)}
NEIGHBOURS = 3  # of precision and recall
LEAST = 4  # images
SMALL_SET = "fewer images than features: too high, and comparable at equal n only; go by the kernel distance"


def set_measures(
    prefix: str, subject: Subject, generated: Tensor, pictures: Tensor, *, paired: bool = False
) -> list[Measure]:
    """Frechet, kernel and sliced Wasserstein distance of drawn pictures from the targets, precision and recall.

    generated: features [N,K,F] of K pictures an image, by `subject.extract`, all of which count; Frechet and kernel
    distance are torchmetrics'. pictures: one of an image's [N,3,H,W], for the sliced Wasserstein distance. paired:
    there is one picture an image (K = 1), which is to be its target: that pair is left out of the kernel distance.
    Images of which a judge's features are not all numbers are left out of all but the sliced Wasserstein distance.
    Nothing for fewer than 4 images.
    """
    if len(pictures) < LEAST:
        return []
    whole = (generated.isfinite().all(dim=(1, 2)) & subject.target_features.isfinite().all(dim=1)).nonzero().flatten()
    found = _by_features(prefix, subject, subject.target_features[whole], generated[whole], paired)
    if lost := len(pictures) - len(whole):
        told = f"{lost} of {len(pictures)} images {UNREAD}"
        found = [replace(measure, note="; ".join(filter(None, (measure.note, told)))) for measure in found]
    value, error = picture_swd(subject.targets, pictures, seed=subject.seed)
    low, high = max(0.0, value - 1.96 * error), value + 1.96 * error
    note = f"other patches of the targets themselves are at {subject.swd_floor:.3g}"
    return [*found, Measure(f"{prefix}_swd", value, low, high, len(pictures), "7x7 patches", "lower", note)]


def too_few(part: str, n: int) -> list[str]:
    """What to say where a part's distances of sets are left out."""
    return [f"{part}: no distances of sets, they need at least {LEAST} images"] if n < LEAST else []


def _by_features(prefix: str, subject: Subject, real: Tensor, generated: Tensor, paired: bool) -> list[Measure]:
    """Of features real [N,F] and generated [N,K,F]."""
    n = len(real)
    if n < LEAST:
        return []
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
    return found


def _precision(real: Tensor, generated: Tensor) -> float:
    return precision_recall(real, generated, NEIGHBOURS).precision


def _recall(real: Tensor, generated: Tensor) -> float:
    return precision_recall(real, generated, NEIGHBOURS).recall
