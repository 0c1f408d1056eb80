"""The report's page: one HTML file that needs nothing else, safe whatever images, recipes and models are called."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from latentopt.evaluation.measure import Measure
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_text
from latentopt.files.text import as_unicode
from latentopt.pictures.images import to_pil
from latentopt.report.svg import COLOURS
from latentopt.report.tables import Table, groups, overview

PAGE = Path(__file__).with_name("page.html")
LARGEST = 256  # pixels a side of a picture in the page


@dataclass(frozen=True)
class Method:
    """measures: by name, `seconds` among them; recipe: resolved, as TOML; curves, notes: of its evaluation."""

    name: str
    source: str
    recipe: str
    measures: Mapping[str, Measure]
    curves: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Strip:
    """One image by all methods.

    pictures: {method: [3,H,W] in [-1,1] each, in the order of the report's `rows`}; captions: {method: text}.
    """

    name: str
    target: Tensor
    pictures: Mapping[str, Sequence[Tensor]]
    captions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A plot with what it shows. `plot` is markup of latentopt.report.charts."""

    title: str
    plot: Markup
    caption: str = ""


@dataclass(frozen=True)
class Dial:
    """A setting swept: the curve, and the table of its points."""

    figure: Figure
    table: Table


@dataclass(frozen=True)
class Report:
    """What the page shows.

    rows: what the pictures of a strip are ("reconstruction", "smile +2"); about: {heading: (name, value) pairs}.
    """

    title: str
    summary: str
    methods: Sequence[Method]
    figures: Sequence[Figure] = ()
    dials: Sequence[Dial] = ()
    strips: Sequence[Strip] = ()
    rows: Sequence[str] = ("reconstruction",)
    about: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def render(report: Report) -> str:
    """The page. All text is escaped; it holds no script and asks for nothing from elsewhere."""
    measures = {method.name: method.measures for method in report.methods}
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["zip"] = zip
    return pages.from_string(PAGE.read_text(encoding="utf-8")).render(
        report=report,
        overview=overview(measures) if measures else None,
        groups=groups(measures),
        colours={method.name: i % COLOURS for i, method in enumerate(report.methods)},
        data_uri=data_uri,
        pixelated=any(max(strip.target.shape[1:]) < LARGEST // 2 for strip in report.strips),
    )


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all. Raises LatentoptError, naming the file, where it cannot be written."""
    with clear_write_errors(Path(path)):
        write_text(Path(path), as_unicode(render(report)))


def data_uri(image: Tensor) -> str:
    """[3,H,W] in [-1,1] as a PNG within the page, at most LARGEST pixels a side."""
    picture = to_pil(image)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
