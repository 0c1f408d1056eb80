"""An evaluation as its JSON has it, checked where it is read back."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from latentopt.evaluation.framework import Evaluation
from latentopt.evaluation.measure import Better, Measure
from latentopt.files.schema import conform, parse_json

Values = list[float | None]


class StoredMeasure(TypedDict):
    """A `Measure` in JSON."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    extractor: str
    better: Better
    note: str


class Density(TypedDict):
    """The latents in P-norm+, a value a bin."""

    first: list[float]
    last: list[float]
    all: list[float]


class Densities(TypedDict):
    """Of what was found and of the generator's samples; the bins lie between `edges`."""

    edges: list[float]
    embeddings: Density
    samples: Density


class PoseCurve(TypedDict):
    """The attribute's mean reading at each strength, and that of the generator's samples."""

    attribute: str
    strengths: list[float]
    mean: Values
    samples: Values


Curves = TypedDict("Curves", {"p-norm": Densities, "pose": PoseCurve}, total=False)


class Row(TypedDict):
    name: str


class StoredEvaluation(TypedDict):
    """An `Evaluation` in JSON."""

    images: list[Row]
    measures: dict[str, StoredMeasure]
    curves: Curves
    about: dict[str, Any]
    notes: list[str]


def parse_evaluation(text: str, key: str, value: str) -> Evaluation:
    """An evaluation from the JSON of its file, whose entry `key` is `value`. Raises ValueError for any other text."""
    table = parse_json(text, dict[str, Any])
    if table.pop(key, None) != value:
        raise ValueError(f"another {key}")
    stored: StoredEvaluation = conform(table, StoredEvaluation)
    _check_lengths(stored["curves"])
    measures = {name: Measure(**_number(entry)) for name, entry in stored["measures"].items()}
    images = [dict(row) for row in stored["images"]]
    return Evaluation(images, measures, _numbers(stored["curves"]), stored["about"], stored["notes"])


def _check_lengths(curves: Curves) -> None:
    if "p-norm" in curves:
        found = curves["p-norm"]
        bins = len(found["edges"]) - 1
        densities = (found["embeddings"], found["samples"])
        if bins < 3 or any({len(d["first"]), len(d["last"]), len(d["all"])} != {bins} for d in densities):
            raise ValueError("curves.p-norm does not fit its edges")
    if "pose" in curves:
        pose = curves["pose"]
        if len({len(pose["strengths"]), len(pose["mean"]), len(pose["samples"])}) != 1:
            raise ValueError("curves.pose does not fit its strengths")


def _number(entry: StoredMeasure) -> dict[str, Any]:
    """JSON has no NaN: a value that is none was one."""
    return dict(entry) | ({"value": math.nan} if entry["value"] is None else {})


def _numbers(value: Any) -> Any:
    """The same within the lists of curves."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [math.nan if item is None else _numbers(item) for item in value] if isinstance(value, list) else value
