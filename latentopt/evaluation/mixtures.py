"""Interpolation and style mixing of embeddings (Zhu et al. 2020, 4.4.4 and 4.4.5): how far from photos they lead."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from latentopt.editing.mixing import DrawnWay, mix_drawn
from latentopt.errors import UsageError
from latentopt.evaluation.measure import Measure
from latentopt.evaluation.rendering import draw_each
from latentopt.evaluation.set_metrics import LEAST, set_measures, too_few
from latentopt.evaluation.subject import Found, Subject
from latentopt.parameterizations.constraint import PNormConstraint
from latentopt.parameterizations.pnorm import Whitened
from latentopt.protocols import Parameterization
from latentopt.results.redrawing import Redraw
from latentopt.statistics.pnorm import PNORM
from latentopt.types import GeneratorInputs


def interpolation(subject: Subject) -> Found:
    """Table 2: pictures evenly on the way from each embedding to its partners, in W+ and P-norm+, against the targets.

    Partners are the generator's samples (4.4.4) or the other embeddings (Figure 13). The ends are not among the
    pictures: of the embedding itself the reconstruction tells, and Table 5 has "the middle samples".
    """
    if len(subject.inputs) < LEAST:
        return Found(notes=too_few("interpolation", len(subject.inputs)))
    found = Found()
    steps = subject.amounts.steps
    shares = [k / (steps + 1) for k in range(1, steps + 1)]
    lenses: dict[str, Parameterization | None] = {"w+": None}
    if subject.pnorm is None:
        run = PNORM.to_make(subject.generator)
        found.notes.append(f"interpolation in p-norm+: left out, no P-norm statistics; run {run}")
    else:
        basis = subject.pnorm.basis(dtype=torch.float64)
        lenses["p-norm+"] = Whitened(PNormConstraint(basis, subject.generator.num_ws))
    for space, lens in lenses.items():
        try:
            images = [
                [way(t) for to in _ends(subject, i) for way in [DrawnWay(one, to, lens)] for t in shares]
                for i, one in enumerate(subject.redraws)
            ]
        except UsageError as error:
            found.notes.append(f"interpolation in {space}: left out, {error}")
            continue
        found.measures += _set_of(f"interpolation_{space}", subject, images)
    return found


def mixing(subject: Subject) -> Found:
    """Table 3: the first 7 of 18 rows (proportionally) of one embedding, the rest of another, against the targets."""
    n = len(subject.inputs)
    if n < LEAST:
        return Found(notes=too_few("mixing", n))
    images = [
        [
            mix_drawn(one, subject.redraws[j], None, subject.generator)
            for j in others(n, i, subject.amounts.partners, subject.seed)
        ]
        for i, one in enumerate(subject.redraws)
    ]
    return Found(_set_of("mixing", subject, images))


def _set_of(prefix: str, subject: Subject, images: Sequence[Sequence[GeneratorInputs]]) -> list[Measure]:
    """The set measures of images[i], made from image i, as many of each."""
    features, pictures = [], []
    for i, inputs in enumerate(images):
        drawn = draw_each(subject.generator, inputs, subject.noise_mode(i))
        features.append(subject.features(drawn))
        pictures.append(drawn[i % len(drawn)])
    return set_measures(prefix, subject, torch.stack(features), torch.stack(pictures))


def _ends(subject: Subject, i: int) -> list[Redraw]:
    """Image i's partners; every image has others."""
    count = subject.amounts.partners
    if subject.partners == "embeddings":
        return [subject.redraws[j] for j in others(len(subject.inputs), i, count, subject.seed)]
    rows = [(i * count + k) % len(subject.samples) for k in range(count)]
    return [Redraw(GeneratorInputs(subject.samples[row : row + 1])) for row in rows]


def others(n: int, i: int, count: int, seed: int) -> list[int]:
    """`count` other images than i of n, or as many as there are: those after it in a random circle."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    at = order.index(i)
    return [order[(at + k) % n] for k in range(1, min(count, n - 1) + 1)]
