"""Directions from labels (Shen et al. 2020, "Interpreting the Latent Space of GANs for Semantic Face Editing").

A hyperplane separates the latents with an attribute from those without; its normal is the direction. Of attributes that
can be told by one another, one is made independent of the others by projection (section 2.3, conditional manipulation).

Deviations from the paper: logistic regression with balanced classes instead of a linear support vector machine; labels
that are numbers give the lowest and the highest `share` of samples instead of 10,000 each; several conditions are
projected out together, through an orthonormal basis of their normals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.labels import Labelled
from latentopt.editing.spaces import EditingSpace, unit
from latentopt.errors import UsageError
from latentopt.registry import nearest

SHARE = 0.1
HELD_OUT = 0.3
FEWEST = 10  # samples on a side of the hyperplane
PENALTY = 1000.0  # of the squared normal (1/C of scikit-learn), for coordinates of unit variance
ENTANGLED = 0.4  # cosine of two normals above which `entangled` makes them independent


@dataclass(frozen=True, eq=False)
class Hyperplane:
    """normal [D] of length 1, towards more of the attribute; score: balanced accuracy on the held-out of n samples."""

    normal: Tensor
    score: float
    n: int


def fit_hyperplane(x: Tensor, labels: Tensor, threshold: float | None = None, *, seed: int = 0) -> Hyperplane:
    """The hyperplane between samples `x` [n,D] with low and with high `labels` [n].

    threshold: the label at which the classes part; None takes the lowest and the highest `SHARE` of the samples.
    Raises UsageError where one side has fewer than `FEWEST` samples.
    """
    if threshold is None:
        order, count = labels.argsort(), int(len(labels) * SHARE)
        low, high = order[:count], order[len(order) - count :]
    else:
        low, high = (labels <= threshold).nonzero().flatten(), (labels > threshold).nonzero().flatten()
    if min(len(low), len(high)) < FEWEST or labels[low].max() == labels[high].min():
        sides = f"{len(low)} samples have less of it and {len(high)} more"
        raise UsageError(f"{sides}; a direction needs {FEWEST} of each at least, and labels that differ")
    chosen, classes = torch.cat([low, high]), np.repeat([0, 1], [len(low), len(high)])
    scale = x.std(dim=0).square().mean().sqrt()
    codes = ((x[chosen] - x.mean(dim=0)) / scale).numpy()
    fitted, held, y, held_y = train_test_split(codes, classes, test_size=HELD_OUT, random_state=seed, stratify=classes)
    model = LogisticRegression(C=1 / PENALTY, max_iter=1000, class_weight="balanced").fit(fitted, y)
    score = balanced_accuracy_score(held_y, model.predict(held))
    return Hyperplane(unit(torch.from_numpy(model.coef_[0])), float(score), len(chosen))


def independent_of(normal: Tensor, others: Sequence[Tensor]) -> Tensor:
    """`normal` [D] without its part in the span of `others`, at length 1: moving along it crosses none of their planes.

    Raises UsageError where nothing is left.
    """
    if not others:
        return unit(normal)
    basis = torch.linalg.qr(torch.stack([unit(other) for other in others], dim=1)).Q  # [D,k]
    rest = unit(normal) - basis @ (basis.T @ unit(normal))
    if rest.norm() < 1e-6:
        raise UsageError("nothing is left of it when all conditions are projected out; name fewer with --condition")
    return unit(rest)


def find_interfacegan(
    labelled: Labelled,
    space: EditingSpace,
    *,
    names: Sequence[str] | None = None,
    condition: str | Sequence[str] | Mapping[str, Sequence[str]] = "entangled",
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Direction]:
    """A direction for each attribute in `names` (all by default).

    condition: what each is made independent of: "none", "all" the other attributes, those "entangled" with it (one
    after the other, until the normal has no cosine above `ENTANGLED` with another one's), a list of names, or a list
    for each attribute.
    layers: the rows of ws that the directions move.
    Raises UsageError for unknown names and labels without two sides.
    """
    names = list(labelled.names if names is None else names)
    wanted = [*names, *(_named(condition))]
    for name in wanted:
        if name not in labelled.names:
            raise UsageError(f"no labels for {name!r}{nearest(name, list(labelled.names))}")
    x = space.coordinates(labelled.codes)
    every = labelled.names if condition in ("all", "entangled") else list(dict.fromkeys(wanted))
    planes: dict[str, Hyperplane] = {}
    for name in every:
        if (plane := _plane(x, labelled, name, seed, name in names)) is not None:
            planes[name] = plane
    directions = []
    for name in names:
        conditions = _conditions(name, planes, condition)
        try:
            normal = independent_of(planes[name].normal, [planes[other].normal for other in conditions])
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
        about = labelled.about | {"n": planes[name].n, "seed": seed, "independent_of": conditions}
        rows = None if layers is None else tuple(layers)
        fields = {"method": "interfacegan", "score": round(planes[name].score, 4), "about": about}
        directions.append(space.direction(name, normal, layers=rows, **fields))
    return directions


def _named(condition: str | Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    if isinstance(condition, Mapping):
        return [name for names in condition.values() for name in names]
    if not isinstance(condition, str):
        return list(condition)
    if condition in ("none", "all", "entangled"):
        return []
    raise UsageError(f"condition {condition!r}: none, all, entangled, or names of attributes")


def _plane(x: Tensor, labelled: Labelled, name: str, seed: int, wanted: bool) -> Hyperplane | None:
    """None for an attribute that nobody asked for and that has no two sides among the samples."""
    labels = labelled.values[:, labelled.names.index(name)]
    known = labels.isfinite()  # an empty cell of a table is no label
    try:
        return fit_hyperplane(x[known], labels[known], labelled.thresholds.get(name), seed=seed)
    except UsageError as error:
        if wanted:
            raise UsageError(f"{name}: {error}") from None
        return None


def _conditions(
    name: str, planes: Mapping[str, Hyperplane], condition: str | Sequence[str] | Mapping[str, Sequence[str]]
) -> list[str]:
    if isinstance(condition, Mapping):
        return list(condition.get(name, ()))
    if condition == "none":
        return []
    if condition == "all":
        return [other for other in planes if other != name]
    if condition == "entangled":
        return _entangled(name, {key: plane.normal for key, plane in planes.items()})
    return [other for other in condition if other != name]


def _entangled(name: str, normals: Mapping[str, Tensor]) -> list[str]:
    """The fewest, the most entangled first, that must be projected out until no cosine is above `ENTANGLED`."""
    conditions: list[str] = []
    rest = normals[name]
    for _ in range(len(normals) - 1):
        cosines = {key: abs(float(normal @ rest)) for key, normal in normals.items() if key not in (name, *conditions)}
        worst = max(cosines, key=cosines.__getitem__)
        if cosines[worst] <= ENTANGLED:
            break
        conditions.append(worst)
        rest = independent_of(normals[name], [normals[other] for other in conditions])
    return conditions
