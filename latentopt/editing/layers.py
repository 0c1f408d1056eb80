"""Which row of ws drives a layer, and rows as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from latentopt.errors import UsageError

LAYER = re.compile(r"(?:synthesis\.)?b(\d+)(?:\.(const|conv0|conv1|torgb|img|skip))?(?:\.|$)")
ROWS = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")
PARTS = {"const": 0, "conv0": -1, "skip": -1, "conv1": 0, "torgb": 1, "img": 1}  # rows from that of conv1


def row_of(name: str) -> int | None:
    """The row of ws [B,L,C] that drives a layer, one of its weights, or its output: `b8.conv0` -> 1.

    In a block of size r, conv0, conv1 and toRGB are driven by rows 2i-1, 2i and 2i+1, i = log2(r / 4); the toRGB's row is
    the next block's first too. None for names of other kinds.
    """
    match = LAYER.match(name)
    if match is None:
        return None
    return max(2 * ((int(match[1]) // 4).bit_length() - 1) + PARTS[match[2] or "conv1"], 0)


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
