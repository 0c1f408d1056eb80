"""Finished results on disk: found below a folder, or those of the newest run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentopt.errors import CheckpointError
from latentopt.files.shards import Shard, in_shard, shard_folder
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import check_generator, read_run

WRITTEN = {"edits", "dragged", "mixed", "interpolated"}  # folders, in that of a run, of what is made of its latents


@dataclass(frozen=True)
class EarlierResult:
    """A finished inversion on disk: its folder, and its name below the run's folder."""

    folder: Path
    name: str

    @property
    def record(self) -> Mapping[str, Any]:
        """Its run.json, read anew each time: there may be more results than memory holds."""
        return read_run(self.folder)

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(str(self.folder / "recipe.toml"))

    def check_generator(self, generator: Generator) -> None:
        """Raise CheckpointError where this was made with another generator than `generator`."""
        check_generator(str(self.folder), self.record, generator)


def find_results(folder: Path, shard: Shard | None = None) -> list[EarlierResult]:
    """The finished inversions in or below `folder`, by name; tuned ones only where there are no others.

    shard: only those of a part: all in its folder, where the run itself was made in such parts, else by their names.
    Raises CheckpointError where there is none.
    """
    folder = Path(folder)
    own = shard_folder(folder, shard)
    folder, shard = (own, None) if own.is_dir() else (folder, shard)
    found: list[EarlierResult] = []
    tuned: list[EarlierResult] = []
    for path in sorted(folder.rglob("run.json")):
        result = EarlierResult(path.parent, _name(path.parent, folder))
        if in_shard(result.name, shard):
            (tuned if result.record.get("tuned") else found).append(result)
    if not found and not tuned:
        part = "" if shard is None else f" of part {shard[0]}/{shard[1]}"
        raise CheckpointError(f"{folder}: no finished inversion{part} there; run latentopt invert first")
    return found or tuned


def newest_run(outdir: Path, shard: Shard | None = None) -> tuple[list[EarlierResult], Path]:
    """The results of the newest run in or below the output folder, and its folder: those that share the newest one's
    summary.csv. A result that lies in `outdir` itself is a run of its own. shard: as for `find_results`.

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
    if shard is not None:
        return find_results(root, shard), root
    return [replace(result, name=_name(result.folder, root)) for result in runs[root]], root


def _root(folder: Path, outdir: Path) -> Path:
    """The folder of a result's run: the nearest one above it with a summary, else the output folder."""
    above = folder.parents if folder != outdir else ()
    return next((f for f in above if f.is_relative_to(outdir) and (f / "summary.csv").is_file()), outdir)


def _name(folder: Path, root: Path) -> str:
    return folder.name if folder == root else folder.relative_to(root).as_posix()
