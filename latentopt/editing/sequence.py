"""Edits as they are written, `smile=+2`, `yaw=-1@0-3`, `yaw=-2..2`, and carrying them out one after the other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from latentopt.editing.channels import PREFIX, Channel
from latentopt.editing.direction import Direction
from latentopt.editing.layers import layers_text, parse_layers
from latentopt.errors import UsageError
from latentopt.registry import nearest
from latentopt.types import GeneratorInputs

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
EDIT = re.compile(rf"(?P<name>[^=]+)=(?P<strength>{NUMBER})(?:@(?P<layers>.+))?", re.IGNORECASE)
SWEEP = re.compile(
    rf"(?P<name>[^=]+)=(?P<first>{NUMBER})\.\.(?P<last>{NUMBER})(?::(?P<count>\d+))?(?:@(?P<layers>.+))?", re.IGNORECASE
)
SWEPT = 5  # pictures of a sweep
DIGITS = 6  # of a strength, in names
MOST_SWEPT = 1000


@dataclass(frozen=True)
class Edit:
    """One step: the direction's name, how many standard deviations along it, and rows of ws instead of its own."""

    name: str
    strength: float
    layers: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        return self.written()

    def written(self, digits: int = DIGITS) -> str:
        """As in names of files, the strength with so many digits at most."""
        return f"{self.name}{self.strength:+.{digits}g}{rows_text(self.layers)}"


def parse_edit(text: str) -> Edit:
    """`NAME=STRENGTH`, with `@ROWS` behind it where only some layers are meant. Raises UsageError."""
    match = EDIT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no edit; write NAME=STRENGTH, such as smile=+2 or smile=+2@0-6")
    return Edit(match["name"].strip(), _finite(match["strength"], text), _rows(match["layers"]))


def parse_sweep(text: str) -> list[Edit]:
    """`NAME=FIRST..LAST`, with `:COUNT` and `@ROWS` behind it -> one edit a picture, evenly. Raises UsageError."""
    match = SWEEP.fullmatch(text.strip())
    count = int(match["count"] or SWEPT) if match else 0
    if match is None or not 2 <= count <= MOST_SWEPT:
        raise UsageError(
            f"{text!r} is no sweep; write NAME=FIRST..LAST, such as yaw=-2..2 or, for 9 pictures (2 to {MOST_SWEPT}), "
            "yaw=-2..2:9"
        )
    first, last = _finite(match["first"], text), _finite(match["last"], text)
    strengths = torch.linspace(first, last, count, dtype=torch.float64).tolist()
    return [Edit(match["name"].strip(), round(strength, 9), _rows(match["layers"])) for strength in strengths]


def rows_text(layers: Sequence[int] | None) -> str:
    """`@0-3`; nothing for a direction's own rows."""
    return "" if layers is None else f"@{layers_text(layers)}"


def _finite(number: str, text: str) -> float:
    if not math.isfinite(float(number)):
        raise UsageError(f"{text!r}: a strength is a finite number")
    return float(number)


def _rows(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else parse_layers(text)


def choose(name: str, directions: Mapping[str, Direction | Channel]) -> Direction | Channel:
    """The direction of that name, or the channel (see `latentopt.editing.channels.with_channels`); `hair-length` and
    `hair_length` are one. Raises UsageError with the nearest name, or how a channel is had.
    """
    plain = {key.replace("-", "_"): key for key in directions}
    if name not in directions and name.replace("-", "_") not in plain:
        if name.startswith(PREFIX):
            raise UsageError(
                f"no direction {name!r}: a channel of the style space is added to the directions by "
                f"with_channels(directions, [{name!r}], generator)"
            )
        raise UsageError(f"no direction {name!r}{nearest(name, list(directions))}")
    return directions[name if name in directions else plain[name.replace("-", "_")]]


def apply_edits(
    inputs: GeneratorInputs,
    edits: Sequence[Edit],
    directions: Mapping[str, Direction | Channel],
    layers: Sequence[int] | None = None,
) -> GeneratorInputs:
    """The edits one after the other; `layers` are the rows for those that name none themselves.

    Raises UsageError as `choose` and `Direction.edit` do.
    """
    for edit in edits:
        direction = choose(edit.name, directions)
        inputs = direction.edit(inputs, edit.strength, layers if edit.layers is None else edit.layers)
    return inputs
