"""Measures of several methods as a table: the best in each column bold, the second underlined."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentopt.evaluation.measure import Measure
from latentopt.report.numbers import figure

DASH = "\N{EN DASH}"
NAMES = {
    "mse": "MSE",
    "rmse": "RMSE",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "perceptual": "perceptual",
    "lec": "LEC",
    "lec_trimmed": "LEC, trimmed",
    "radius": "P-norm radius",
    "seconds": "seconds an image",
    "pose_range": "pose range",
    "pose_share": "pose response",
    "corruption_frechet": "corruption",
    "latent_variation": "latent variation",
}
HINTS = {
    "pose_share": "range of the pose edited from -2 to 2 deviations, as a share of the generator's own samples' range",
    "lec": "latent editing consistency: edited, inverted again, edited back",
    "radius": "root mean square of the P-norm+ code: 1 for the generator's own samples",
    "corruption_frechet": "how far tuning moved the generator's other pictures (Frechet distance)",
    "edit_response": "how far an edited attribute moves, mean over the edits, in deviations of the generator's samples",
    "edit_drift": "how far the other attributes move along, mean over the edits, in the same unit",
}
GROUPS = (  # titles, and the names that they hold
    ("Reconstruction", r"r?mse|psnr|(ms_)?ssim|perceptual|bundled|lpips_\w+|vgg|identity|reconstruction_.*"),
    ("Response to edits", r"edit_response|(pose|response|flipped|accuracy|edited)_.*"),
    ("What else an edit changes", r"(edit_)?(drift|entanglement)(_.*)?"),
    ("Latents", r"latent_variation|(radius|outliers|lec)(_.*)?"),
    ("Pictures around and between", r"(path_length|interpolation|mixing)_.*"),
    ("Cost", r"seconds|corruption_.*"),
)
OVERVIEW = (
    "perceptual",
    "psnr",
    "ssim",
    "identity",
    "pose_share",
    "edit_response",
    "edit_drift",
    "lec",
    "radius",
    "corruption_frechet",
    "seconds",
)


@dataclass(frozen=True)
class Cell:
    """`rank`: "best", "second" or ""."""

    text: str
    interval: str = ""
    rank: str = ""


@dataclass(frozen=True)
class Column:
    name: str
    title: str
    better: str
    hint: str


@dataclass(frozen=True)
class Table:
    """cells[row][column]; a row a method, in the order of `rows`."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]


def table(title: str, methods: Mapping[str, Mapping[str, Measure]], names: Sequence[str]) -> Table:
    """The measures called `names` of each method. One that a method lacks is a dash and takes no part in ranking."""
    columns = [_column(name, [m[name] for m in methods.values() if name in m]) for name in names]
    ranked = [ranks([m.get(column.name) for m in methods.values()]) for column in columns]
    cells = tuple(
        tuple(_cell(measures.get(column.name), ranked[j][i]) for j, column in enumerate(columns))
        for i, measures in enumerate(methods.values())
    )
    return Table(title, tuple(methods), tuple(columns), cells)


def overview(methods: Mapping[str, Mapping[str, Measure]]) -> Table:
    """The measures that tell most."""
    return table("Overview", methods, [n for n in OVERVIEW if any(n in m for m in methods.values())])


def groups(methods: Mapping[str, Mapping[str, Measure]]) -> list[Table]:
    """Every measure, a table a group; what belongs to none comes last."""
    left = list(dict.fromkeys(name for measures in methods.values() for name in measures))
    found = []
    for title, pattern in GROUPS:
        names = [name for name in left if re.fullmatch(pattern, name)]
        left = [name for name in left if name not in names]
        found += [table(title, methods, names)] if names else []
    return [*found, table("Other measures", methods, left)] if left else found


def ranks(measures: Sequence[Measure | None]) -> list[str]:
    """ "best" and "second" by `better`; equals share their rank, and nothing is ranked where all are equal or alone."""
    values = [m.value for m in measures if m is not None and math.isfinite(m.value)]
    better = {m.better for m in measures if m is not None}
    if better not in ({"lower"}, {"higher"}) or len(set(values)) < 2:
        return [""] * len(measures)
    first, second = sorted(set(values), reverse=better == {"higher"})[:2]
    words = {first: "best", second: "second"}
    return ["" if m is None else words.get(m.value, "") for m in measures]


def _column(name: str, measures: Sequence[Measure]) -> Column:
    better = measures[0].better if measures else "neither"
    notes = [m.note for m in measures if m.note][:1]
    extractor = [m.extractor for m in measures if m.extractor][:1]
    hint = "; ".join([HINTS.get(name, ""), *extractor, *notes]).strip("; ")
    return Column(name, NAMES.get(name, name.replace("_", " ")), better, hint)


def _cell(measure: Measure | None, rank: str) -> Cell:
    if measure is None or not math.isfinite(measure.value):
        return Cell(DASH)
    interval = f" {DASH} ".join(map(figure, measure.interval or ()))
    return Cell(figure(measure.value), interval, rank)
