"""From compared methods to a report: strips of pictures, plots, what was run and on what machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.table import Column as RichColumn
from rich.table import Table as RichTable
from rich.text import Text
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.sequence import Edit, apply_edits
from latentopt.evaluation.comparison import Compared
from latentopt.evaluation.measure import Measure
from latentopt.files.storage import to_json
from latentopt.files.text import one_line
from latentopt.inverting.items import WARNING
from latentopt.protocols import Generator
from latentopt.report.figures import dial_figure, figures
from latentopt.report.page import Method, Report, Strip
from latentopt.report.tables import overview
from latentopt.results.inversion import Inversion
from latentopt.results.manifest import versions
from latentopt.results.redrawing import redraw_of

SHOWN = 24  # images that have strips of their own; tables and plots are of all


def report_of(
    compared: Sequence[Compared],
    generator: Generator,
    edits: Sequence[Edit] = (),
    directions: Mapping[str, Direction] | None = None,
    *,
    title: str = "",
    dials: Sequence[tuple[str, str, Mapping[str, Mapping[str, Measure]]]] = (),
    about: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """The page of methods that were measured on the same images.

    edits: the strips' rows, along `directions`; dials: (title, about, {setting: measures});
    about: further headings with their (name, value) pairs, before those of the machine and the versions.
    """
    methods = [_method(entry) for entry in compared]
    images = compared[0].results if compared else ()
    made = [dial_figure(*dial, methods) for dial in dials]
    return Report(
        title=title or f"{_count(len(methods), 'method')} on {_count(len(images), 'image')}",
        summary=f"Generator {generator.name} ({generator.resolution[1]}x{generator.resolution[0]} pixels), "
        f"{_count(len(images), 'image')}, the same seeds for every method.",
        methods=methods,
        figures=figures(methods),
        dials=[dial for dial in made if dial is not None],
        strips=strips(compared, generator, edits, directions or {}),
        rows=["reconstruction", *(edit.label for edit in edits)],
        about={**(about or {}), **_surroundings(generator)},
        notes=[*notes, *_shown_note(len(images))],
    )


def _method(entry: Compared) -> Method:
    recipe, evaluation = entry.recipe, entry.evaluation
    return Method(entry.name, recipe.source, recipe.dump(), entry.measures, evaluation.curves, evaluation.notes)


@torch.no_grad()
def strips(
    compared: Sequence[Compared], generator: Generator, edits: Sequence[Edit], directions: Mapping[str, Direction]
) -> list[Strip]:
    """The first images: target, what each method made of it, and that edited."""
    if not compared:
        return []
    found = []
    for i, first in enumerate(compared[0].results[:SHOWN]):
        entries = [(entry.name, entry.results[i]) for entry in compared]
        pictures = {name: [result.image, *_edited(result, generator, edits, directions)] for name, result in entries}
        captions = {name: f"{result.manifest['metrics']['psnr']:.1f} dB" for name, result in entries}
        warnings = [note for note in first.manifest["source"]["notes"] if note.startswith(WARNING)]
        found.append(Strip(first.name, first.target, pictures, captions, warnings))
    return found


def _edited(
    result: Inversion, generator: Generator, edits: Sequence[Edit], directions: Mapping[str, Direction]
) -> list[Tensor]:
    redraw = redraw_of(result, generator)
    mode = result.manifest.get("noise_mode", "const")
    mode = "const" if mode == "random" else mode  # of which no picture could be drawn twice
    inputs = redraw.base.to(generator.device)
    moved = [redraw(apply_edits(inputs, [edit], directions)) for edit in edits]
    return [generator.synthesis(one, mode)[0].float().clamp(-1, 1).cpu() for one in moved]


def _surroundings(generator: Generator) -> dict[str, list[tuple[str, str]]]:
    device = generator.device
    machine = [("system", platform.platform()), ("processor", _processor()), ("cores", _cores())]
    if device.type == "cuda":
        machine.append(("accelerator", torch.cuda.get_device_name(device)))
    machine += [("device", str(device)), ("threads", str(torch.get_num_threads()))]
    model = [
        ("name", generator.name),
        ("source", generator.source),
        ("fingerprint", generator.fingerprint),
        ("resolution", f"{generator.resolution[1]}x{generator.resolution[0]}"),
        ("latents", f"{generator.num_ws} rows of {generator.w_dim}"),
    ]
    return {"Generator": model, "Machine": machine, "Versions": list(versions().items())}


def _processor() -> str:
    """The model's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()}"


def _shown_note(count: int) -> list[str]:
    return [f"Pictures of the first {SHOWN} images are shown; all figures are of all {count}."] if count > SHOWN else []


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def figures_of(
    compared: Sequence[Compared],
    dials: Sequence[tuple[str, str, Mapping[str, Mapping[str, Measure]]]],
    settings: Sequence[tuple[str, str]],
) -> str:
    """comparison.json: the measures of all methods and dials, the rows of the images."""
    methods = {
        entry.name: {
            "recipe": entry.recipe.table(),
            "measures": {name: measure.to_dict() for name, measure in entry.measures.items()},
            "images": entry.evaluation.images,
            "curves": entry.evaluation.curves,
            "notes": entry.evaluation.notes,
        }
        for entry in compared
    }
    swept = {
        title: {"about": about, "settings": {k: {n: m.to_dict() for n, m in v.items()} for k, v in settings.items()}}
        for title, about, settings in dials
    }
    table = {"settings": dict(settings), "versions": versions(), "methods": methods, "dials": swept}
    return to_json(table, indent=1) + "\n"


def terminal_table(compared: Sequence[Compared]) -> RichTable:
    """The overview for the terminal: best bold, second underlined."""
    found = overview({entry.name: entry.measures for entry in compared})
    table = RichTable(RichColumn("method", overflow="fold"), title=found.title, title_justify="left")
    for column in found.columns:
        table.add_column(column.title, justify="right")
    styles = {"best": "bold", "second": "underline", "": ""}
    for name, cells in zip(found.rows, found.cells, strict=True):
        table.add_row(Text(one_line(name)), *(Text(cell.text, styles[cell.rank]) for cell in cells))
    return table
