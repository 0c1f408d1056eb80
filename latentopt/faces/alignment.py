"""What is kept of an aligned picture, so that it can be put back: its photograph, and which square of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import ImageError
from latentopt.faces.quads import check_quad, face_quad
from latentopt.files.outputs import clear_write_errors
from latentopt.files.schema import conform, parse_json, read_text
from latentopt.files.storage import to_json, write_text

SCHEMA = "latentopt-alignment-1"
RECORD_LIMIT = 1 << 20  # bytes

Point = tuple[float, float]
Four = tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class Alignment:
    """Where an aligned picture lies in its photograph; points and quad as in `latentopt.faces.quads`.

    photo: name of the file; file: where it lay; sha256: of its bytes; size (H,W), upright; how: "faces", "points" or
    "box"; detector: what found the points, "" for points by hand; face, faces: which of how many, by size;
    score: how sure the detector was, in [0,1].
    """

    photo: str
    file: str
    sha256: str
    size: tuple[int, int]
    how: str
    quad: Four
    points: Four | None = None
    detector: str = ""
    score: float | None = None
    face: int = 1
    faces: int = 1
    schema: str = SCHEMA

    @property
    def corners(self) -> Tensor:
        """The quad, [4,2]."""
        return torch.tensor(self.quad, dtype=torch.float64)

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it: lists, no tuples."""
        return {key: _listed(value) for key, value in asdict(self).items()}

    @property
    def digest(self) -> str:
        """Changes with what is cut out of the photograph."""
        return hashlib.sha256(to_json([self.sha256, self.quad]).encode()).hexdigest()

    @property
    def note(self) -> str:
        """What was done to the photograph, in words."""
        if self.how == "box":
            return "cut out as the box says"
        by = f"found by {self.detector}" if self.detector else "given by hand"
        which = f", face {self.face} of {self.faces}" if self.faces > 1 else ""
        return f"aligned by the points of its face, {by}{which}"

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        with clear_write_errors(path):
            write_text(path, to_json(self.record, indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> Alignment:
        """Raises ImageError, naming the file, for one that is none, or is damaged."""
        try:
            return from_record(parse_json(read_text(path, RECORD_LIMIT)))
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: no alignment can be read there ({error}); align the photograph again") from error


def from_record(record: Mapping[str, Any]) -> Alignment:
    """The alignment of a JSON record. Raises ValueError, naming the entry, for what is none."""
    if not isinstance(record, Mapping) or record.get("schema") != SCHEMA:
        raise ValueError(f"it has not the schema {SCHEMA!r}")
    found: Alignment = conform(dict(record), Alignment)
    try:
        check_quad(found.corners, found.size)
    except Exception as error:
        raise ValueError(f"quad: {error}") from error
    return found


def alignment_of_face(points: Tensor, **about: Any) -> Alignment:
    """By the points [4,2] of a face; `about`: the other fields."""
    return Alignment(quad=four(face_quad(points)), points=four(points), **about)


def four(points: Tensor) -> Four:
    """Rows [4,2] as numbers."""
    a, b, c, d = [(float(x), float(y)) for x, y in points.tolist()]
    return a, b, c, d


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
