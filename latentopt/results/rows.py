"""The rows of a summary, any number of them: they wait in a temporary file and not in memory. Needs no torch."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

IN_MEMORY = 4 << 20  # bytes, above which they go to the disk
COLUMNS = ("name", "status", "psnr", "ssim", "perceptual", "radius", "seconds", "steps", "stop_reason", "error")

Row = Mapping[str, object]


class Rows:
    """Rows, one an image: keys from COLUMNS, any other key becomes a further column.

    columns: {name: the kinds of its values}; status: how many rows have which.
    """

    def __init__(self) -> None:
        self.stream = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (goes with the object)
        self.offsets = array("q")
        self.columns: dict[str, set[type]] = {name: set() for name in COLUMNS}
        self.status: Counter[str] = Counter()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        made = cls()
        for row in rows:
            made.add(row)
        return made

    def add(self, row: Row, folder: str | None = None) -> None:
        """folder: the result's, from the folder of the summary; by default the row's name."""
        self.offsets.append(self.stream.seek(0, 2))
        self.stream.write(json.dumps([folder, row]).encode() + b"\n")
        self.status[str(row["status"])] += 1
        for name, value in row.items():
            self.columns.setdefault(name, set()).add(type(value))

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for _, row in self.with_folders())

    def with_folders(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row with the folder of its result."""
        for offset in self.offsets:
            self.stream.seek(offset)
            folder, row = json.loads(self.stream.readline())
            yield row["name"] if folder is None else folder, row

    def sort(self, rank: Callable[[str], Any] = str) -> None:
        """From now on by what `rank` makes of their names."""
        ranks = [rank(row["name"]) for row in self]
        self.offsets = array("q", (self.offsets[i] for i in sorted(range(len(ranks)), key=ranks.__getitem__)))


def row_of(name: str, record: Mapping[str, Any]) -> dict[str, object]:
    """The row of a finished image by its run.json: its figures, those before it was tuned, how long it took and why it
    ended.
    """
    before = record.get("tuned_from", {}).get("metrics", {})
    seconds = record["seconds"]
    return {
        "name": name,
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
