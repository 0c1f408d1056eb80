"""Reconstruction (Zhu et al. 2020, Table 1): distances of each saved picture from its target, and of the two sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentopt.evaluation.image_metrics import distortion, identity
from latentopt.evaluation.measure import Better, measure_mean
from latentopt.evaluation.set_metrics import set_measures, too_few
from latentopt.evaluation.subject import Found, Subject
from latentopt.judge.protocol import embeddings, judge_name

BATCH = 8
BETTER: dict[str, Better] = {"psnr": "higher", "ssim": "higher", "ms_ssim": "higher", "identity": "higher"}


@torch.no_grad()
def reconstruction(subject: Subject) -> Found:
    """Metrics of `distortion`, perceptual distances, identity where the judge embeds; distances of the two sets."""
    pairs = list(zip(subject.images.split(BATCH), subject.targets.split(BATCH), strict=True))
    parts = [distortion(*pair) for pair in pairs]
    values, extractors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, {}
    for name, distance in subject.distances.items():
        values[name] = torch.cat([distance(image, target) for image, target in pairs]).cpu().double()
        extractors[name] = distance.name
    judge = subject.judge
    if judge is not None and hasattr(judge, "embed"):
        values["identity"] = torch.cat([identity(partial(embeddings, judge), *pair) for pair in pairs])
        extractors["identity"] = judge_name(judge)
    found = Found(rows=by_image(values), notes=too_few("reconstruction", len(subject.results)))
    for name, column in values.items():
        better = BETTER.get(name, "lower")
        extractor = extractors.get(name, "")
        found.measures.append(measure_mean(name, column, extractor=extractor, better=better, seed=subject.seed))
    found.measures += set_measures(
        "reconstruction", subject, subject.features(subject.images)[:, None], subject.images, paired=True
    )
    return found


def by_image(values: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """{name: [N]} as N rows."""
    return [dict(zip(values, row, strict=True)) for row in zip(*(x.tolist() for x in values.values()), strict=True)]
