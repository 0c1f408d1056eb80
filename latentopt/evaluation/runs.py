"""The runs that are evaluated: folders of finished inversions, found and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentopt.errors import CheckpointError
from latentopt.files.shards import Shard
from latentopt.results.earlier import EarlierResult, find_results
from latentopt.results.inversion import Inversion


def find_run(folder: Path, shard: Shard | None = None) -> list[EarlierResult]:
    """The finished inversions of a run, or of a part of it.

    Raises CheckpointError where there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; name one that latentopt invert wrote")
    return find_results(folder, shard)


def read_results(results: Sequence[EarlierResult]) -> list[Inversion]:
    """Read from their folders, by the names that they have in their run. Raises CheckpointError for a damaged one."""
    return [replace(Inversion.load(result.folder), name=result.name) for result in results]


def load_run(folder: str | Path) -> list[Inversion]:
    """All of a run, as `evaluate` takes it. Raises CheckpointError as `find_run` and `read_results`."""
    return read_results(find_run(Path(folder)))
