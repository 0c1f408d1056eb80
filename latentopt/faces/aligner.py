"""How photographs are aligned: which squares are cut out of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentopt.errors import ImageError, UsageError
from latentopt.faces.alignment import Alignment, alignment_of_face, four
from latentopt.faces.given import ANY, Given, points_of
from latentopt.faces.quads import box_quad, check_quad
from latentopt.pictures.decoding import MAX_PIXELS, Picture, decode
from latentopt.pictures.finding import ImageSource, folded
from latentopt.pictures.images import from_levels
from latentopt.protocols import FaceDetector
from latentopt.registry import DETECTORS
from latentopt.watching.phases import Advance

NONE, FACES, BOX = "none", "faces", "box"
NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
WHITE = (255, 255, 255)
BY_HAND = "give its points (--points), or a box (--align box:X,Y,SIZE)"


@dataclass(frozen=True)
class Aligner:
    """What is cut out of a photograph.

    how: "faces" is every face, "box:X,Y,SIZE" a square by its top left corner, "none" nothing: the photograph goes on
    as it is. given: points of faces, which go before that for the photographs that they are of. largest: only the
    largest face. detector: a name in DETECTORS. Raises UsageError for another word.
    """

    how: str = FACES
    given: Given = field(default_factory=dict)
    detector: str = "blazeface"
    largest: bool = False

    def __post_init__(self) -> None:
        DETECTORS.resolve(self.detector)
        if self.how not in (NONE, FACES):
            self.box  # noqa: B018 (whether it is one)

    @property
    def idle(self) -> bool:
        """Whether every photograph stays as it is."""
        return self.how == NONE and not self.given

    @property
    def box(self) -> Tensor:
        """The square of `how`, [4,2]. Raises UsageError where it is none."""
        numbers = re.fullmatch(rf"box[:\s]\s*({NUMBER}),\s*({NUMBER}),\s*({NUMBER})", self.how)
        if numbers is None:
            raise UsageError(f"--align {self.how}: faces, none or box:X,Y,SIZE, in pixels")
        left, top, side = map(float, numbers.groups())
        return box_quad(left, top, side)

    @cached_property
    def find(self) -> FaceDetector:
        """The detector, made when the first face is looked for."""
        return DETECTORS.create(self.detector)

    def __call__(self, source: ImageSource) -> list[Alignment]:
        """The squares of a photograph; none where it stays as it is.

        Raises ImageError for a photograph that cannot be read, one without a face, and squares outside it.
        """
        given = points_of(self.given, source.path, source.key)
        if not given and self.how == NONE:
            return []
        picture = decode(source.path, WHITE, MAX_PIXELS)
        found = list(self._faces(picture, source, given) if given or self.how == FACES else self._box(picture, source))
        try:
            for alignment in found:
                check_quad(alignment.corners, picture.size)
        except UsageError as error:
            raise ImageError(f"{source.path}: {error}; {BY_HAND}") from error
        return found[:1] if self.largest else found

    def _faces(self, picture: Picture, source: ImageSource, given: Sequence[Tensor]) -> list[Alignment]:
        about = {"how": "points" if given else FACES, **_about(picture, source)}
        faces: list[tuple[Tensor, dict[str, Any]]]
        if given:
            faces = [(points, {}) for points in given]
        else:
            found = self.find(tensor_of(picture))
            faces = [(face.points, {"detector": self.detector, "score": round(face.score, 4)}) for face in found]
        if not faces:
            raise ImageError(f"{source.path}: no face was found there; {BY_HAND}")
        numbered = enumerate(faces, 1)
        return [alignment_of_face(points, **about, **more, face=i, faces=len(faces)) for i, (points, more) in numbered]

    def _box(self, picture: Picture, source: ImageSource) -> list[Alignment]:
        return [Alignment(how=BOX, quad=four(self.box), **_about(picture, source))]


def check_given(given: Given, sources: Sequence[ImageSource]) -> None:
    """Raise UsageError where points are given for a photograph that is not among `sources`, or for one of many."""
    if ANY in given and len(sources) > 1:
        raise UsageError(f"--points has the points of one picture, and {len(sources)} are named: give a file of points")
    for name in given:
        if not any(points_of({name: given[name]}, source.path, source.key) for source in sources):
            raise UsageError(f"--points: {name!r} is none of the pictures that are named")


def _about(picture: Picture, source: ImageSource) -> dict[str, Any]:
    path = Path(source.path)
    return {"photo": path.name, "file": str(path.absolute()), "sha256": picture.sha256, "size": picture.size}


def tensor_of(picture: Picture) -> Tensor:
    """The colours, [3,H,W] in [-1,1]."""
    return from_levels(torch.from_numpy(np.stack([np.asarray(channel, np.float32) for channel in picture.channels])))


@dataclass(frozen=True)
class Placed:
    """A square of a photograph, or the photograph as it is (no alignment), with the name of its result; or why there is
    none.
    """

    source: ImageSource
    key: str
    alignment: Alignment | None = None
    error: ImageError | None = None


def placed(sources: Sequence[ImageSource], align: Aligner, advance: Advance) -> Iterator[Placed]:
    """The squares of all photographs, counted by `advance`. One keeps the name of its photograph; several have -1, -2,
    ... behind it.
    """
    check_given(align.given, sources)
    taken = {folded(source.key) for source in sources}
    for source in sources:
        try:
            squares = align(source)
        except ImageError as error:
            yield Placed(source, source.key, error=error)
            advance(1)
            continue
        if len(squares) < 2:
            yield Placed(source, source.key, squares[0] if squares else None)
        else:
            keys = _numbered(source.key, len(squares), taken)
            yield from (Placed(source, key, square) for key, square in zip(keys, squares, strict=True))
        advance(1)


def _numbered(key: str, count: int, taken: set[str]) -> list[str]:
    """Names that no other photograph has."""
    stem = key
    while taken & {folded(f"{stem}-{i}") for i in range(1, count + 1)}:
        stem += "-face"
    names = [f"{stem}-{i}" for i in range(1, count + 1)]
    taken.update(map(folded, names))
    return names
