"""summary.csv and index.html of many results, a page after the other. Needs no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from latentopt.files.outputs import clear_write_errors
from latentopt.files.text import as_unicode, cell
from latentopt.files.writing import write_atomically, write_text
from latentopt.results.rows import Rows

PAGE_ROWS = 1000  # a browser cannot lay out a hundred thousand
PAGES_FOLDER = ".pages"  # of the second page and those after it
NEAR = 3  # pages before and after, which a page links to

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
<p>{{ done }} of {{ total }} images finished{% if failed %}, {{ failed }} failed{% endif %}
{%- if missing %}, {{ missing }} missing{% endif %}.
All figures: <a href="{{ up }}summary.csv">summary.csv</a>.
{%- if grid %} Side by side{% if done > grid_rows %} (the first {{ grid_rows }}){% endif %}:
<a href="{{ up }}grid.png">grid.png</a>.{% endif %}</p>
{% if pages > 1 %}<p>{{ rows|length }} images on each of {{ pages }} pages, this is page {{ number }}
{%- for title, link in links %}{{ ": " if loop.first else ", " }}<a href="{{ link }}">{{ title }}</a>{% endfor %}.</p>
{% endif %}
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


def write_table(outdir: Path, rows: Rows) -> Path:
    """Write summary.csv. Raises LatentoptError, naming the file, where it cannot be written."""

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(rows.columns)
            writer.writerows([_csv_cell(row.get(column)) for column in rows.columns] for row in rows)

    path = outdir / "summary.csv"
    with clear_write_errors(path):
        write_atomically(path, write)
    return path


def write_pages(outdir: Path, rows: Rows, title: str, grid: int = 0) -> Path:
    """Write index.html and, where one page does not hold all, those that follow it; stale ones are removed.

    grid: how many images grid.png shows; 0: there is none. Raises LatentoptError, naming the file.
    """
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = page.from_string(PAGE)
    count = max(1, -(-len(rows) // PAGE_ROWS))
    waiting = rows.with_folders()
    for number in range(1, count + 1):
        path = page_path(outdir, number)
        up = "" if number == 1 else "../"
        shown = [_shown(rows.columns, row, f"{up or './'}{quote(as_unicode(folder))}")
                 for folder, row in islice(waiting, PAGE_ROWS)]  # fmt: skip
        text = template.render(
            title=title, columns=list(rows.columns), rows=shown, total=len(rows), done=rows.status["ok"],
            failed=rows.status["failed"], missing=rows.status["missing"], grid=grid > 0, grid_rows=grid, up=up,
            number=number, pages=count, links=list(_links(number, count)),
        )  # fmt: skip
        with clear_write_errors(path):
            write_text(path, text)
    for stale in (outdir / PAGES_FOLDER).glob("*.html"):
        if not (stale.stem.isdecimal() and int(stale.stem) <= count):
            stale.unlink()
    return outdir / "index.html"


def page_path(outdir: Path, number: int) -> Path:
    """Of a page, from 1."""
    return outdir / "index.html" if number == 1 else outdir / PAGES_FOLDER / f"{number}.html"


def _links(number: int, count: int) -> Iterator[tuple[str, str]]:
    """(text, address) of the first, the last and the nearest pages, as seen from one."""
    near = range(max(1, number - NEAR), min(count, number + NEAR) + 1)
    for other in sorted({1, *near, count} - {number}):
        folder = f"{PAGES_FOLDER}/" if number == 1 else ""
        yield str(other), "../index.html" if other == 1 else f"{folder}{other}.html"


def _shown(columns: Mapping[str, object], row: Mapping[str, Any], url: str) -> dict[str, object]:
    cells = [(column, _cell(row.get(column)), isinstance(row.get(column), (int, float))) for column in columns]
    return {"name": _text(row["name"]), "ok": row["status"] == "ok", "url": url, "cells": cells}


def _text(value: object) -> str:
    return "" if value is None else as_unicode(str(value))


def _csv_cell(value: object) -> str:
    return cell(_text(value)) if isinstance(value, str) else _text(value)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)
