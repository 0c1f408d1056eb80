"""Which images a run is to have results of: on record before the work, so that one can tell what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from latentopt.errors import CheckpointError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.writing import write_atomically

FOLDER = ".ledger"  # of a run's output folder: who works on what
FILE = "images.jsonl"


def write_plan(out: Path, names: Iterable[str]) -> None:
    """Put the names of all images on record."""

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(name) + "\n" for name in names)

    with clear_write_errors(out / FOLDER / FILE):
        write_atomically(out / FOLDER / FILE, write)


def read_plan(out: Path) -> Iterator[str] | None:
    """The names, one after the other; None where there is no such record. Raises CheckpointError for a damaged one."""
    path = out / FOLDER / FILE
    return _names(path) if path.is_file() else None


def _names(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                name = json.loads(line)
            except (ValueError, RecursionError):
                name = None
            if not isinstance(name, str):
                raise CheckpointError(f"{path}: damaged; give the command that made {path.parent.parent} again")
            yield name
