"""Finished results on disk: found below a folder, or those of the newest run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentopt.errors import CheckpointError
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import check_generator, read_run

WRITTEN = {"edits", "dragged", "mixed", "interpolated"}  # folders, in that of a run, of what is made of its latents


@dataclass(frozen=True)
class EarlierResult:
    """A finished inversion on disk: its folder, its name below the run's folder, and its run.json."""

    folder: Path
    name: str
    record: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(str(self.folder / "recipe.toml"))

    def check_generator(self, generator: Generator) -> None:
        """Raise CheckpointError where this was made with another generator than `generator`."""
        check_generator(str(self.folder), self.record, generator)


def find_results(folder: Path) -> list[EarlierResult]:
    """The finished inversions in or below `folder`, by name; tuned ones only where there are no others.

    Raises CheckpointError where there is none.
    """
    folder = Path(folder)
    found = [_result(path.parent, folder) for path in sorted(folder.rglob("run.json"))]
    plain = [result for result in found if not result.record.get("tuned")]
    if not found:
        raise CheckpointError(f"{folder}: no finished inversion there; run latentopt invert first")
    return plain or found


def newest_run(outdir: Path) -> tuple[list[EarlierResult], Path]:
    """The results of the newest run in or below the output folder, and its folder: those that share the newest one's
    summary.csv. A result that lies in `outdir` itself is a run of its own.

    Results of a tuning do not count. Raises CheckpointError where there is none.
    """
    outdir = Path(outdir)
    if not outdir.is_dir():
        raise CheckpointError(f"{outdir}: no such folder; run latentopt invert first, or name the folder of a run")
    runs: dict[Path, list[EarlierResult]] = {}
    for result in find_results(outdir):
        if not result.record.get("tuned"):
            runs.setdefault(_root(result.folder, outdir), []).append(result)
    if not runs:
        raise CheckpointError(
            f"{outdir}: nothing but tuned results there; run latentopt invert first, or name a folder"
        )
    root = max(runs, key=lambda folder: max((r.folder / "run.json").stat().st_mtime_ns for r in runs[folder]))
    return [replace(result, name=_name(result.folder, root)) for result in runs[root]], root


def _root(folder: Path, outdir: Path) -> Path:
    """The folder of a result's run: the nearest one above it with a summary, else the output folder."""
    above = folder.parents if folder != outdir else ()
    return next((f for f in above if f.is_relative_to(outdir) and (f / "summary.csv").is_file()), outdir)


def _result(folder: Path, root: Path) -> EarlierResult:
    return EarlierResult(folder, _name(folder, root), read_run(folder))


def _name(folder: Path, root: Path) -> str:
    return folder.name if folder == root else folder.relative_to(root).as_posix()
