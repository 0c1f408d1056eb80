"""Points and where they are dragged to, as they are written: `30,40:34,40` in pixels, `45%,60%:50%,60%` in shares."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from latentopt.errors import UsageError

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
PLACE = re.compile(rf"\s*({NUMBER})(%?)\s*,\s*({NUMBER})(%?)\s*")

Drag = tuple[float, float, float, float]
"""x, y, to_x, to_y in pixels; the middle of the first pixel is (0, 0)."""


def parse_point(text: str, resolution: tuple[int, int]) -> Drag:
    """`X,Y:X,Y` for a picture of that height and width. Raises UsageError for what is none, and for places outside."""
    parts = text.split(":")
    if len(parts) != 2:
        raise UsageError(f"{text!r} is no drag; write X,Y:X,Y, such as 30,40:34,40 or 45%,60%:50%,60%")
    start, end = (_place(part, text, resolution) for part in parts)
    return (*start, *end)


def _place(part: str, text: str, resolution: tuple[int, int]) -> tuple[float, float]:
    match = PLACE.fullmatch(part)
    if match is None:
        raise UsageError(f"{text!r}: {part!r} is no place; write X,Y, such as 30,40 or 45%,60%")
    height, width = resolution
    x, y = _pixels(match[1], match[2], width), _pixels(match[3], match[4], height)
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        raise UsageError(f"{text!r}: {part!r} is outside the picture; x is from 0 to {width - 1}, y to {height - 1}")
    return x, y


def _pixels(number: str, percent: str, side: int) -> float:
    value = float(number)
    if not percent or not 0 <= value <= 100:
        return value if not percent else math.inf
    return min(max(value / 100 * side - 0.5, 0.0), side - 1.0)


def as_drags(points: Sequence) -> list[Drag]:
    """Points given as [x, y, to_x, to_y] or [[x, y], [to_x, to_y]]. Raises UsageError for anything else."""
    found: list[Drag] = []
    for point in points:
        try:
            flat = [float(value) for part in point for value in (part if isinstance(part, Sequence) else [part])]
            x, y, to_x, to_y = flat
        except (TypeError, ValueError) as error:
            raise UsageError(f"a point is (x, y, to_x, to_y) or ((x, y), (to_x, to_y)), not {point!r}") from error
        found.append((x, y, to_x, to_y))
    if not found:
        raise UsageError("a drag needs a point, such as --point 30,40:34,40")
    return found
