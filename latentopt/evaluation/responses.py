"""How embeddings answer to edits, as the judge reads it (Zhu et al. 2020, 4.4.1 and 4.4.2), and what else changes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.evaluation.measure import bootstrap_interval, measure_mean, measure_ratio
from latentopt.evaluation.reconstruction import by_image
from latentopt.evaluation.rendering import draw_samples
from latentopt.evaluation.set_metrics import set_measures, too_few
from latentopt.evaluation.subject import Found, LatentEdit, Subject
from latentopt.files.text import to_run
from latentopt.judge.protocol import judge_name, log_odds, plain
from latentopt.types import GeneratorInputs

POSES = (-2, -1, 0, 1, 2)  # standard deviations
STRENGTHS = (-2, -1, 1, 2)
FLIPS = (1, 2, 3)
KINDS = ("response", "drift", "entanglement")
REFERENCES = 32  # of the generator's samples, for the same edits


@torch.no_grad()
def pose(subject: Subject) -> Found:
    """Table 4: the coordinate along the pose direction is set to -2 to 2 standard deviations, and the pose is read.

    The larger the range, the better: latents far from the generator's own answer less to an edit. `pose_share` is the
    range as a share of that of the generator's own samples. The unit of `pose_range` is the judge's.
    """
    name = next((name for name in subject.labelled if plain(name) == plain(subject.pose)), None)
    if name is None:
        return Found(notes=[_missing(subject, "pose", subject.pose, f" --attributes {shlex.quote(subject.pose)}")])
    edit, column = subject.labelled[name]
    generator = subject.generator
    read = []
    for i, inputs in enumerate(subject.inputs):
        ws = torch.cat([placed(inputs, edit, s, generator.w_avg) for s in POSES])
        read.append(subject.read(subject.draw(i, ws))[:, column])
    readings = torch.stack(read)  # [N,5]
    reference = _reference(subject, edit, column, POSES, set_to=True).nanmean(dim=0)  # [5]
    own = (reference[-1] - reference[0]).item()
    ranges = readings[:, -1] - readings[:, 0]
    common: dict[str, Any] = {"extractor": judge_name(subject.reader), "better": "higher", "seed": subject.seed}
    found = Found([measure_mean("pose_range", ranges, **common)])
    if abs(own) > 1e-6:
        found.measures.append(measure_mean("pose_share", ranges / own, **common))
    found.rows = [{f"{name}@{s:+d}": value for s, value in zip(POSES, row, strict=True)} for row in readings.tolist()]
    found.curves["pose"] = {"attribute": name, "samples": reference.tolist()} | curve(POSES, readings)
    return found


@torch.no_grad()
def attributes(subject: Subject) -> Found:
    """Every direction that is named after an attribute, added at -2 to 2 standard deviations.

    response_X: how far the attribute moves, in deviations of the generator's samples per deviation of the edit;
    drift_X: how far the others move on average, at +-1; entanglement_X: drift over the attribute's own movement, both
    at +-1. Binary attributes move by their log-odds. edit_response, edit_drift and edit_entanglement are means over
    all these edits. Binary attributes: flipped_X is the share of images that change class when edited away from it by
    1 deviation (4.4.2 does not say how accuracy counts; 0.10 for SG2 rules out counting both signs, where no response
    at all gives 0.5), and accuracy_X counts both signs. Frechet, kernel and SWD of the pictures edited by +-1 from
    the targets: e4e's Table 3.
    """
    labelled = subject.labelled
    if not labelled:
        return Found(notes=[_missing(subject, "attributes", "an attribute of the judge")])
    read = torch.empty(len(subject.inputs), len(labelled), len(STRENGTHS), len(subject.reader.attributes)).double()
    features, pictures = [], []
    mild = [k for k, s in enumerate(STRENGTHS) if abs(s) == 1]
    for i, inputs in enumerate(subject.inputs):
        edited: list[Tensor] = []
        for k, (edit, _) in enumerate(labelled.values()):
            drawn = subject.draw(i, torch.cat([edit.edit(inputs, s).ws for s in STRENGTHS]))
            read[i, k] = subject.read(drawn)
            edited.append(drawn[mild])
        mildly = torch.cat(edited)
        features.append(subject.features(mildly))
        pictures.append(mildly[i % len(mildly)])
    found = Found(notes=too_few("attributes", len(subject.inputs)))
    moves = [
        _movements(found, subject, name, column, read[:, k]) for k, (name, (_, column)) in enumerate(labelled.items())
    ]
    response, drift, own = (torch.stack(values).nanmean(dim=0) for values in zip(*moves, strict=True))  # [N]
    _add_movements(found, subject, ("edit_response", "edit_drift", "edit_entanglement"), response, drift, own)
    found.rows = by_image({"edit_response": response, "edit_drift": drift})
    found.measures += set_measures("edited", subject, torch.stack(features), torch.stack(pictures))
    for name in subject.reader.binary_attributes:
        if name in labelled:
            _flips(found, subject, name, *labelled[name])
    return found


def _movements(found: Found, subject: Subject, name: str, column: int, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one direction, read [N,4,A]: response, drift and the attribute's own movement of each image [N]."""
    before, after = log_odds(subject.reader, subject.readings), log_odds(subject.reader, read)
    change = (after - before[:, None]) / subject.scales  # [N,4,A]
    own = change[..., column]  # [N,4]
    others = [k for k in range(change.shape[2]) if k != column]
    mild = [k for k, s in enumerate(STRENGTHS) if abs(s) == 1]
    span = STRENGTHS[-1] - STRENGTHS[0]
    response = (own[:, -1] - own[:, 0]) / span
    drift = change[:, mild][..., others].abs().sum(dim=2).mean(dim=1) / max(len(others), 1)
    moved = own[:, mild].abs().mean(dim=1)
    _add_movements(found, subject, tuple(f"{kind}_{name}" for kind in KINDS), response, drift, moved)
    by_attribute = (change[:, -1] - change[:, 0]).nanmean(dim=0) / span  # [A]
    found.curves.setdefault("edits", {})[name] = curve(STRENGTHS, own) | {
        "others": dict(zip(subject.reader.attributes, by_attribute.tolist(), strict=True))
    }
    return response, drift, moved


def _add_movements(
    found: Found, subject: Subject, names: tuple[str, ...], response: Tensor, drift: Tensor, moved: Tensor
) -> None:
    common: dict[str, Any] = {"extractor": judge_name(subject.reader), "seed": subject.seed}
    found.measures.append(measure_mean(names[0], response, better="higher", **common))
    if len(subject.reader.attributes) > 1:
        found.measures.append(measure_mean(names[1], drift, better="lower", **common))
        found.measures.append(measure_ratio(names[2], drift, moved, better="lower", **common))


def _flips(found: Found, subject: Subject, name: str, edit: LatentEdit, column: int) -> None:
    """Of one binary attribute: images whose class changes at each strength, and the same of the generator's samples."""
    strengths = [sign * s for s in FLIPS for sign in (-1, 1)]
    after = []
    for i, inputs in enumerate(subject.inputs):
        drawn = subject.draw(i, torch.cat([edit.edit(inputs, s).ws for s in strengths]))
        after.append(subject.read(drawn)[:, column])
    flipped, right = _flipped(subject.readings[:, column], torch.stack(after))  # [N,3]
    common: dict[str, Any] = {"extractor": judge_name(subject.reader), "better": "higher", "seed": subject.seed}
    found.measures += [
        measure_mean(f"flipped_{name}", flipped[:, 0], **common),
        measure_mean(f"accuracy_{name}", right[:, 0], **common),
    ]
    own = _reference(subject, edit, column, strengths)
    samples, _ = _flipped(subject.sample_readings[: len(own), column], own)
    found.curves.setdefault("flips", {})[name] = curve(FLIPS, flipped) | {"samples": samples.nanmean(dim=0).tolist()}


def _flipped(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Of probabilities before [N] and after [N,6] edits by -1, 1, -2, 2, -3, 3: [N,3] each, NaN where one was not read.

    1 where the class changed by the edit away from it, and the share of both edits that end in the class they ask for.
    """
    without, with_it = _classes(after).unflatten(1, (len(FLIPS), 2)).unbind(2)  # [N,3]
    has = _classes(before)[:, None].expand_as(without)
    flipped = torch.where(has == 1, 1 - without, with_it)
    return torch.where(has.isnan(), has, flipped), torch.stack([1 - without, with_it]).mean(dim=0)


def _classes(probability: Tensor) -> Tensor:
    return torch.where(probability.isnan(), probability, (probability > 0.5).double())


def _reference(
    subject: Subject, edit: LatentEdit, column: int, strengths: Sequence[float], *, set_to: bool = False
) -> Tensor:
    """The attribute [S,strengths] of the generator's own samples under the same edits."""
    read = []
    for ws in subject.samples[:REFERENCES].split(1):
        inputs = GeneratorInputs(ws)
        moved = [
            placed(inputs, edit, s, subject.generator.w_avg) if set_to else edit.edit(inputs, s).ws for s in strengths
        ]
        read.append(subject.read(draw_samples(subject.generator, torch.cat(moved)))[:, column])
    return torch.stack(read)


def coordinate(inputs: GeneratorInputs, edit: LatentEdit, centre: Tensor) -> Tensor:
    """Where ws [B,L,C] lie along an edit, in its strengths from `centre` [C] (w_avg): [B].

    The projection on what strength 1 adds, over the rows that it moves; in P where the edit is straight there.
    """
    straight = _straight(edit)
    here = straight(inputs.ws.cpu().double())
    step = straight(edit.edit(inputs, 1.0).ws.cpu().double()) - here  # [B,L,C]
    away = here - straight(centre.cpu().double())
    return (away * step).sum(dim=(1, 2)) / step.square().sum(dim=(1, 2)).clamp(min=1e-30)


def _straight(edit: LatentEdit) -> Callable[[Tensor], Tensor]:
    """The map to the space in which the edit adds a constant."""
    return edit.coordinates.straight if isinstance(edit, Direction) else lambda w: w


def placed(inputs: GeneratorInputs, edit: LatentEdit, strength: float, centre: Tensor) -> Tensor:
    """ws [1,L,C] of one image with its coordinate along `edit` set to `strength`, as in GANSpace and II2S's Table 4."""
    return edit.edit(inputs, strength - coordinate(inputs, edit, centre).item()).ws


def curve(strengths: Sequence[float], readings: Tensor) -> dict[str, list]:
    """Means of readings [N,K] by strength, with their intervals, over the images that have one."""
    bounds = [bootstrap_interval(column[column.isfinite()]) for column in readings.T]
    return {
        "strengths": list(strengths),
        "mean": readings.nanmean(dim=0).tolist(),
        "low": [low for low, _ in bounds],
        "high": [high for _, high in bounds],
    }


def _missing(subject: Subject, part: str, what: str, options: str = "") -> str:
    if subject.judge is None:
        return f"{part}: left out, no judge reads this generator's domain; name one with --judge"
    run = to_run(f"directions find --method interfacegan{options}", subject.generator.source)
    return f"{part}: left out, no direction is named after {what}; run {run}"
