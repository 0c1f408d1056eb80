"""The result of a whole batch: summary.csv, grid.png and index.html, which needs nothing but the files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from latentopt.errors import ImageError
from latentopt.pictures.contact_sheet import comparison_grid
from latentopt.pictures.images import read_png
from latentopt.results.pages import write_pages, write_table
from latentopt.results.rows import Rows

TITLE = "latentopt inversions"
GRID_ROWS = 16


def write_summary(outdir: Path, rows: Rows | Iterable[Mapping[str, object]], title: str = TITLE) -> list[Path]:
    """Write summary.csv and index.html of `rows`, and grid.png of the first GRID_ROWS finished images.

    rows: one an image (`latentopt.results.rows`); `name` is the image's folder below `outdir`, `status` "ok" or
    "failed". Returns the files. Raises LatentoptError, naming the file, where one cannot be written.
    """
    outdir = Path(outdir)
    rows = rows if isinstance(rows, Rows) else Rows.of(rows)
    table = write_table(outdir, rows)  # first: the figures are kept when the disk fills at the grid
    grid = _write_grid(outdir, (str(row["name"]) for row in rows if row["status"] == "ok"))
    page = write_pages(outdir, rows, title, grid=GRID_ROWS if grid else 0)
    return [table, page, *grid]


def _write_grid(outdir: Path, names: Iterable[str]) -> list[Path]:
    """grid.png of the first images whose pictures are there."""
    targets, images, labels = [], [], []
    for name in islice(names, GRID_ROWS):
        try:
            target, image = (read_png(outdir / name / f"{kind}.png") for kind in ("target", "proj"))
        except ImageError:
            continue  # moved away since: the table still has its figures
        targets.append(target)
        images.append(image)
        labels.append(name)
    return comparison_grid(targets, images, outdir / "grid.png", labels=labels, rows_per_sheet=GRID_ROWS)
