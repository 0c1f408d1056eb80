"""Points of faces that were found elsewhere: by hand, or by another tool, as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.files.kinds import check_file
from latentopt.files.schema import conform, parse_json, read_text

LIMIT = 64 << 20  # bytes of a file of points
ANY = "*"  # the name under which points are given for whichever picture there is
COUNTS = "4 points (eyes, corners of the mouth), 5 (eyes, nose, corners of the mouth) or 68 (as dlib numbers them)"

Given = Mapping[str, Sequence[Tensor]]
"""{name of a picture: points [4,2] of each of its faces}."""


def given_points(text: str) -> Given:
    """What `--points` names: four points `x,y x,y x,y x,y` of the one picture, or a JSON or CSV file.

    JSON: {"anna.jpg": [[x, y], ...]}, or a list of such lists for several faces. CSV: a row for each face, the name of
    the picture, then x, y, x, y, ...; a heading is passed over. Raises UsageError, naming the file and the entry.
    """
    if re.fullmatch(r"[-+\d.eE,\s]+", text):
        return {ANY: [_four([_number(n, text) for n in re.split(r"[,\s]+", text.strip())], "--points")]}
    path = check_file(text, "points as JSON or CSV", UsageError)
    try:
        content = read_text(path, LIMIT)
        found = _of_csv(content, path) if path.suffix.lower() == ".csv" else _of_json(content, path)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: no points can be read there ({error})") from error
    if not any(found.values()):
        raise UsageError(f"{path}: holds no points; a face has x and y of {COUNTS}")
    return found


def _of_json(content: str, path: Path) -> Given:
    found = {}
    for name, entry in conform(parse_json(content), Mapping[str, list[list[float] | list[list[float]]]]).items():
        several = bool(entry) and bool(entry[0]) and isinstance(entry[0][0], list)
        faces = entry if several else [entry]
        found[name] = [_four([n for point in face for n in point], f"{path}: {name}") for face in faces]
    return found


def _of_csv(content: str, path: Path) -> Given:
    found: dict[str, list[Tensor]] = {}
    for number, row in enumerate(csv.reader(io.StringIO(content)), 1):
        if not row or (number == 1 and not re.search(r"\d", "".join(row[1:2]))):
            continue
        place = f"{path}, line {number}"
        found.setdefault(row[0], []).append(_four([_number(n, place) for n in row[1:]], place))
    return found


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{place}: {text[:40]!r} is no number") from None


def _four(numbers: Sequence[float], place: str) -> Tensor:
    """The eyes and the corners of the mouth, [4,2], of all the points of a face as x, y, x, y, ..."""
    if len(numbers) not in (8, 10, 136):
        raise UsageError(f"{place}: {len(numbers)} numbers; a face has x and y of {COUNTS}")
    points = torch.tensor(numbers, dtype=torch.float64).view(-1, 2)
    if not bool(points.isfinite().all()):
        raise UsageError(f"{place}: points that are not finite")
    if len(points) == 68:  # the contours of the eyes, then of the lips
        return torch.stack([points[36:42].mean(dim=0), points[42:48].mean(dim=0), points[48], points[54]])
    return points if len(points) == 4 else points[[0, 1, 3, 4]]


def points_of(given: Given, path: Path, key: str) -> Sequence[Tensor]:
    """The faces that are given for a picture: by its path, the end of that, or its key; none where none are."""
    place = path.as_posix()
    for name, faces in given.items():
        if name in (ANY, key) or place == name or place.endswith(f"/{name}"):
            return faces
    return ()
