"""The files of a comparison: report.html, the page, and comparison.json, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentopt.editing.direction import Direction
from latentopt.editing.sequence import Edit
from latentopt.evaluation.comparison import AMOUNTS, Comparison
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_text
from latentopt.report.assemble import figures_of, report_of
from latentopt.report.page import write_report

PAGE, FIGURES = "report.html", "comparison.json"
SHOWN = ("yaw", "smile", "glasses")  # edits in the strips, where there are such directions
STRENGTH = 2.0


def write_comparison(
    comparison: Comparison, edits: Sequence[Edit] = (), settings: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write the page and the figures of a finished comparison into its folder, and return the page's path.

    edits: of the strips, by default `usual_edits`; settings: what was asked for, as (name, value) pairs.
    Raises LatentoptError, naming the file, where one cannot be written.
    """
    page, figures = comparison.outdir / PAGE, comparison.outdir / FIGURES
    report = report_of(
        comparison.compared,
        comparison.generator,
        edits or usual_edits(comparison.directions),
        comparison.directions,
        dials=comparison.swept,
        about={"Settings": settings},
        notes=comparison.notes,
    )
    write_report(page, report)
    with clear_write_errors(figures):
        write_text(figures, figures_of(comparison.compared, comparison.swept, settings))
    return page


def usual_edits(directions: Mapping[str, Direction]) -> list[Edit]:
    """The strips' edits where none is named: pose, smile and glasses, or the first three there are."""
    names = [name for name in SHOWN if name in directions] or list(directions)[: len(SHOWN)]
    return [Edit(name, STRENGTH) for name in names]


def settings_of(comparison: Comparison, steps: int | None, lec: int) -> list[tuple[str, str]]:
    """What a comparison was asked for, for its page. steps: of every stage, where given; lec: images inverted again."""
    first = comparison.compared[0]
    amounts = (
        f"{AMOUNTS.samples} samples of the generator, {AMOUNTS.paths} paths of each kind an image, {AMOUNTS.steps} "
        f"pictures an interpolation, {AMOUNTS.partners} partners an image, LEC on {lec} images, corruption on "
        f"{AMOUNTS.corruption} pictures an image"
    )
    judge = first.evaluation.about.get("judge") or "none: no judge reads this generator's domain"
    return [
        ("images", ", ".join(result.name for result in first.results)),
        ("seed", str(comparison.seed)),
        ("precision", comparison.dtype),
        ("steps", "as in the recipes" if steps is None else f"{steps} in every stage, not as in the recipes"),
        ("evaluation", amounts),
        ("judge", str(judge)),
        ("directions", ", ".join(comparison.directions) or "none: latentopt directions find makes some"),
    ]
