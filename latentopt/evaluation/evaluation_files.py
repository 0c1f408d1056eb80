"""The files of an evaluation: evaluation.json (everything), evaluation.csv (a row an image), pnorm-histogram.png."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from latentopt.errors import CheckpointError
from latentopt.evaluation.framework import Evaluation
from latentopt.evaluation.stored_evaluation import parse_evaluation
from latentopt.files.outputs import clear_write_errors
from latentopt.files.schema import read_text
from latentopt.files.storage import to_json, write_atomically, write_text
from latentopt.files.text import as_unicode, cell

JSON_FILE, CSV_FILE, FIGURE = "evaluation.json", "evaluation.csv", "pnorm-histogram.png"
FORMAT = "latentopt-evaluation-1"
PANELS = {"first": "first dimension", "last": "last dimensions", "all": "all dimensions"}


def save_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the files, each complete or not at all, and return them; the histogram where there are P-norm statistics.

    Raises LatentoptError, naming the file, where one cannot be written.
    """
    folder = Path(folder)
    text = to_json({"format": FORMAT} | evaluation.to_dict(), indent=2) + "\n"
    written = [folder / JSON_FILE, folder / CSV_FILE]
    for path, content in zip(written, (text, _csv(evaluation.images)), strict=True):
        with clear_write_errors(path):
            write_text(path, content)
    if "p-norm" in evaluation.curves:
        with clear_write_errors(folder / FIGURE):
            draw_histogram(evaluation.curves["p-norm"], folder / FIGURE)
        written.append(folder / FIGURE)
    return written


def load_evaluation(path: Path) -> Evaluation:
    """Read what `save_evaluation` wrote: the file, or the folder it lies in. Raises CheckpointError naming the file."""
    path = Path(path)
    path = path / JSON_FILE if path.is_dir() else path
    try:
        return parse_evaluation(read_text(path), "format", FORMAT)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable evaluation ({error}); run latentopt evaluate") from error


def _csv(images: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for image in images for key in image))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in image.items()} for image in images)
    return stream.getvalue()


def _cell(value: object) -> object:
    """What is not a number is left empty."""
    if isinstance(value, str):
        return cell(as_unicode(value))
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def draw_histogram(curves: dict[str, Any], path: Path) -> None:
    """Figures 6 and 8 of Zhu et al. 2020: the latents in P-norm+ beside the generator's samples and N(0,1)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    edges = np.array(curves["edges"])
    x = np.linspace(edges[0], edges[-1], 400)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        axes.stairs(curves["embeddings"][key], edges, fill=True, color="#7ea6c9", label="embeddings")
        axes.stairs(curves["samples"][key], edges, color="#444444", lw=1, label="samples")
        axes.plot(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="#b3392f", lw=1.2, label="N(0,1)")
        axes.set(title=f"P-norm+, {title}", yscale="log", ylim=(1e-4, 20), xlabel="standard deviations")
    figure.axes[0].legend(loc="upper right", frameon=False, fontsize=8)
    write_atomically(Path(path), lambda temporary: figure.savefig(temporary, dpi=110))
