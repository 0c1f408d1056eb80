"""The result of a whole batch: summary.csv, grid.png and index.html, which needs nothing but the files beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from latentopt.errors import ImageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_text
from latentopt.files.text import as_unicode, cell
from latentopt.pictures.contact_sheet import comparison_grid
from latentopt.pictures.images import read_png
from latentopt.results.inversion import Inversion

COLUMNS = ("name", "status", "psnr", "ssim", "perceptual", "radius", "seconds", "steps", "stop_reason", "error")
TITLE = "latentopt inversions"
GRID_ROWS = 16
PAGE_ROWS = 2000  # a browser cannot lay out a hundred thousand; summary.csv has them all

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="script-src 'none'; object-src 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
  table { border-collapse: collapse }
  th, td { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: middle }
  td.number { text-align: right; font-variant-numeric: tabular-nums }
  td img { width: 128px; image-rendering: pixelated; display: block }
  tr.failed td { background: #fdecea }
  .name, .error { overflow-wrap: anywhere; min-width: 8em; max-width: 24em }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ done }} of {{ total }} images finished{% if failed %}, {{ failed }} failed{% endif %}.
All figures: <a href="summary.csv">summary.csv</a>.
{%- if grid %} Side by side{% if done > grid_rows %} (the first {{ grid_rows }}){% endif %}:
<a href="grid.png">grid.png</a>.{% endif %}</p>
{% if total > rows|length %}<p>The first {{ rows|length }} images are listed here.</p>{% endif %}
<table>
<thead><tr><th>target</th><th>reconstruction</th>
{%- for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr class="{{ 'ok' if row.ok else 'failed' }}">
{% for picture in ("target", "proj") %}
<td>{% if row.ok %}<a href="{{ row.url }}/{{ picture }}.png">\
<img loading="lazy" src="{{ row.url }}/{{ picture }}.png" alt="{{ picture }} of {{ row.name }}"></a>{% endif %}</td>
{% endfor %}
{% for column, text, number in row.cells %}
<td class="{{ 'number' if number else column }}">{{ text }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</body>
</html>
"""


def row_of(inversion: Inversion) -> dict[str, object]:
    """The row of a finished image: its figures, those before it was tuned, how long it took and why it ended."""
    record = inversion.manifest
    before = record.get("tuned_from", {}).get("metrics", {})
    seconds = record["seconds"]
    return {
        "name": inversion.name,
        "status": "ok",
        **record["metrics"],
        **{f"{name}_before": before[name] for name in ("psnr", "ssim", "perceptual") if name in before},
        "seconds": seconds.get("optimisation", seconds.get("encoding")),
        "steps": record["steps"],
        "stop_reason": record["stop_reason"],
    }


def failed_row(name: str, reason: str) -> dict[str, object]:
    """The row of an image that could not be read or inverted."""
    return {"name": name, "status": "failed", "error": reason}


def write_summary(outdir: Path, rows: Sequence[Mapping[str, object]], title: str = TITLE) -> list[Path]:
    """Write summary.csv and index.html of `rows`, and grid.png of the first GRID_ROWS finished images.

    rows: one an image, keys from COLUMNS (any other key becomes a further column); `name` is the image's folder below
    `outdir`, `status` "ok" or "failed". Returns the files. Raises LatentoptError, naming the file, where one cannot be
    written.
    """
    outdir = Path(outdir)
    columns = _columns(rows)
    _write(outdir / "summary.csv", _csv(columns, rows))  # first: the figures are kept when the disk fills at the grid
    grid = _write_grid(outdir, [str(row["name"]) for row in rows if row["status"] == "ok"])
    _write(outdir / "index.html", _html(columns, rows, title, bool(grid)))
    return [outdir / "summary.csv", outdir / "index.html", *grid]


def _write(path: Path, text: str) -> None:
    with clear_write_errors(path):
        write_text(path, text)


def _columns(rows: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*COLUMNS, *(key for row in rows for key in row))))


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
    return stream.getvalue()


def _html(columns: Sequence[str], rows: Sequence[Mapping[str, object]], title: str, grid: bool) -> str:
    done = sum(row["status"] == "ok" for row in rows)
    shown = [
        {
            "name": _text(row["name"]),
            "ok": row["status"] == "ok",
            "url": "./" + quote(_text(row["name"])),
            "cells": [
                (column, _cell(row.get(column)), isinstance(row.get(column), (int, float))) for column in columns
            ],
        }
        for row in rows[:PAGE_ROWS]
    ]
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(PAGE).render(
        title=title, columns=columns, rows=shown, total=len(rows), done=done, failed=len(rows) - done,
        grid=grid, grid_rows=GRID_ROWS,
    )  # fmt: skip


def _text(value: object) -> str:
    return "" if value is None else as_unicode(str(value))


def _csv_cell(value: object) -> str:
    return cell(_text(value)) if isinstance(value, str) else _text(value)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _write_grid(outdir: Path, names: Sequence[str]) -> list[Path]:
    """grid.png of the first images whose pictures are there."""
    targets, images, labels = [], [], []
    for name in names[:GRID_ROWS]:
        try:
            target, image = (read_png(outdir / name / f"{kind}.png") for kind in ("target", "proj"))
        except ImageError:
            continue  # moved away since: the table still has its figures
        targets.append(target)
        images.append(image)
        labels.append(name)
    return comparison_grid(targets, images, outdir / "grid.png", labels=labels, rows_per_sheet=GRID_ROWS)
