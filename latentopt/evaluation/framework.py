"""The evaluation of embeddings (Zhu et al. 2020, section 4) with what e4e, ReStyle and WRanGAN measure beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

from torch import nn

from latentopt.errors import MissingWeightsError, UsageError
from latentopt.evaluation.corruption import tuned_corruption
from latentopt.evaluation.editing_consistency import Invert, consistency
from latentopt.evaluation.image_metrics import PerceptualDistance
from latentopt.evaluation.latents import latents
from latentopt.evaluation.measure import UNREAD, Measure, as_dict
from latentopt.evaluation.mixtures import interpolation, mixing
from latentopt.evaluation.path_length import paths
from latentopt.evaluation.reconstruction import reconstruction
from latentopt.evaluation.responses import attributes, pose
from latentopt.evaluation.subject import Amounts, Found, LatentEdit, Partners, PictureDistance, Subject
from latentopt.judge.network import load_judge
from latentopt.judge.protocol import AttributeJudge, check_judge, judge_name
from latentopt.perceptual.vgg import VGGDistance
from latentopt.protocols import Generator
from latentopt.registry import nearest
from latentopt.results.inversion import Inversion, check_picture_known
from latentopt.results.manifest import versions
from latentopt.statistics.at_hand import first_at_hand
from latentopt.statistics.pnorm import PNORM, PNorm

PARTS: dict[str, Callable[[Subject], Found]] = {
    "reconstruction": reconstruction,
    "latents": latents,
    "pose": pose,
    "attributes": attributes,
    "paths": paths,
    "interpolation": interpolation,
    "mixing": mixing,
    "lec": consistency,
    "corruption": tuned_corruption,
}
METRICS: dict[str, Callable[[Generator], PictureDistance]] = {
    "perceptual": PerceptualDistance,
    "bundled": lambda generator: PerceptualDistance(generator, "bundled"),
    "lpips-vgg": lambda generator: PerceptualDistance(generator, "lpips-vgg"),
    "lpips-alex": lambda generator: PerceptualDistance(generator, "lpips-alex"),
    "vgg": lambda generator: VGGDistance(generator.device),
}


class Asked(TypedDict, total=False):
    """What is asked of an evaluation, as `evaluate` takes it."""

    judge: AttributeJudge | None
    parts: Sequence[str] | None
    metrics: Sequence[str]
    pose: str
    partners: Partners


@dataclass(frozen=True)
class Evaluation:
    """What was measured of N results.

    images: a row an image, `name` first; measures: by name, over all images; curves: what is more than a number, by
    name; about: generator, judge, seed, amounts; notes: which parts were left out, and why.
    """

    images: list[dict[str, Any]]
    measures: dict[str, Measure]
    curves: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as evaluation.json holds it."""
        return asdict(self)


def evaluate(
    results: Sequence[Inversion],
    generator: Generator,
    *,
    judge: AttributeJudge | None = None,
    directions: Mapping[str, LatentEdit] | None = None,
    parts: Sequence[str] | None = None,
    metrics: Sequence[str] = ("perceptual",),
    amounts: Amounts | None = None,
    pnorm: PNorm | None = None,
    pose: str = "yaw",
    partners: Partners = "samples",
    invert: Invert | None = None,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure finished inversions.

    Args:
        results: of `generator`, tuned or not.
        judge: reads attributes; by default the bundled one where the generator draws portraits, elsewhere none.
            Distances of sets go by its features, or by those of the bundled one. A network is moved to the generator's
            device.
        directions: edits by name; one that is named after an attribute of the judge is held against its readings.
        parts: which of PARTS, all by default.
        metrics: perceptual distances of the reconstruction, of METRICS (`perceptual` is the
            bundled network for portraits, LPIPS-VGG else); path lengths go by the first.
        amounts: how much is drawn.
        pnorm: the generator's P-norm statistics; looked for by default.
        pose: the attribute (and direction) of the pose response.
        partners: what images are interpolated with, "samples" of the generator or the other "embeddings".
        invert: how LEC inverts edited pictures; by default the recipe of the results is run again.
        seed: of all draws and intervals.
        on_progress: called with each part's name before it starts.

    Raises:
        UsageError: no results, or restorations, unknown parts or metrics, a judge that is none.
        CheckpointError: results of another generator.
        MissingWeightsError: the weights of LPIPS cannot be had.
    """
    parts = list(PARTS) if parts is None else list(parts)
    _check(results, generator, parts)
    if judge is not None:
        check_judge(judge)
    extract: AttributeJudge = load_judge("portraits") if judge is None else judge
    if isinstance(extract, nn.Module):
        extract = extract.to(generator.device)
    subject = Subject(
        results=results,
        generator=generator,
        judge=extract if judge is not None or generator.card.get("data") == "portraits" else None,
        extract=extract,
        directions=directions or {},
        pnorm=pnorm or _statistics(generator),
        distances=picture_distances(metrics, generator),
        amounts=amounts or Amounts(),
        seed=seed,
        pose=pose,
        partners=partners,
        invert=invert,
    )
    found = {}
    for part in parts:
        if on_progress is not None:
            on_progress(part)
        found[part] = PARTS[part](subject)
    return _joined(subject, found)


def _check(results: Sequence[Inversion], generator: Generator, parts: Sequence[str]) -> None:
    if not results:
        raise UsageError("no results to evaluate")
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"unknown part {part!r}{nearest(part, list(PARTS))}")
    if not parts:
        raise UsageError(f"nothing to measure; name parts, of {', '.join(PARTS)}")
    for result in results:
        result.check_generator(generator)
        check_picture_known(result.name, result.manifest)


def picture_distances(metrics: Sequence[str], generator: Generator) -> dict[str, PictureDistance]:
    """The distances that `metrics`, of METRICS, name, in their order; hyphens become underscores.

    Raises UsageError for none or an unknown one, MissingWeightsError where the weights of one cannot be had.
    """
    if not metrics:
        raise UsageError(f"at least one perceptual metric is needed, of {', '.join(METRICS)}")
    for name in metrics:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}{nearest(name, list(METRICS))}")
    return {name.replace("-", "_"): _distance(name, generator) for name in metrics}


def _distance(name: str, generator: Generator) -> PictureDistance:
    try:
        return METRICS[name](generator)
    except MissingWeightsError as error:
        raise MissingWeightsError(f"metric {name}: {error}", error.network) from error


def _statistics(generator: Generator) -> PNorm | None:
    found = first_at_hand(PNORM, generator)
    return None if found is None else found[0]


def _joined(subject: Subject, found: Mapping[str, Found]) -> Evaluation:
    images: list[dict[str, Any]] = [{"name": result.name} for result in subject.results]
    curves: dict[str, Any] = {}
    for part in found.values():
        for image, row in zip(images, part.rows or [{}] * len(images), strict=True):
            image.update(row)
        curves |= part.curves
    measures = [measure for part in found.values() for measure in part.measures]
    notes = [*_several(subject.results), *(note for part in found.values() for note in part.notes), *_unread(measures)]
    return Evaluation(images, as_dict(measures), curves, _about(subject, found), notes)


def _unread(measures: Sequence[Measure]) -> list[str]:
    names = ", ".join(measure.name for measure in measures if UNREAD in measure.note)
    return [f"the judge found nothing to read in some pictures; of fewer images are: {names}"] if names else []


def _several(results: Sequence[Inversion]) -> list[str]:
    recipes = {(result.manifest["recipe"]["name"], result.manifest["recipe"]["digest"]) for result in results}
    names = ", ".join(sorted(name for name, _ in recipes))
    return [f"results of {len(recipes)} recipes ({names}) are measured as one set"] if len(recipes) > 1 else []


def _about(subject: Subject, parts: Mapping[str, Found]) -> dict[str, Any]:
    generator = subject.generator
    return {
        "generator": {"name": generator.name, "fingerprint": generator.fingerprint},
        "recipes": sorted({result.manifest["recipe"]["name"] for result in subject.results}),
        "images": len(subject.results),
        "judge": None if subject.judge is None else judge_name(subject.judge),
        "features": subject.extractor,
        "directions": {name: str(getattr(edit, "method", "")) for name, edit in subject.directions.items()},
        "parts": list(parts),
        "amounts": asdict(subject.amounts),
        "seed": subject.seed,
        "versions": versions(),
    }
