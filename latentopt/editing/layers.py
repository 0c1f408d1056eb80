"""Rows of ws as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from latentopt.errors import UsageError

ROWS = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


def parse_layers(text: str) -> tuple[int, ...]:
    """`0-6`, `3` or `0-2,5` -> rows, in order. Raises UsageError for anything else."""
    rows: set[int] = set()
    for part in text.split(","):
        match = ROWS.fullmatch(part)
        if match is None or int(match[2] or match[1]) < int(match[1]) or int(match[2] or match[1]) > 99:
            raise UsageError(f"{text!r} are no layers; write rows such as 0-6 or 0-2,5")
        rows |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(rows))


def layers_text(rows: Sequence[int] | None) -> str:
    """Rows as `parse_layers` reads them; `all` for None."""
    if rows is None:
        return "all"
    starts = [row for row in rows if row - 1 not in rows]
    ends = [row for row in rows if row + 1 not in rows]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
