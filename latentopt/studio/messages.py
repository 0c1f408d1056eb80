"""What a page asks for, one JSON text a message: each kind a dataclass, checked before anything is done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from latentopt.editing.sequence import Edit
from latentopt.errors import UsageError
from latentopt.files.schema import conform, parse_json
from latentopt.registry import nearest

MOST_EDITS = 64
LONGEST = 400  # letters of a text

Point = tuple[float, float, float, float]
"""Where a point is and where it shall go, x and y in pixels of the drawn picture."""


@dataclass(frozen=True)
class Move:
    """A slider: a direction's name, its strength, and the rows of ws `first` to `last` instead of its own."""

    name: str
    strength: float
    first: int | None = None
    last: int | None = None

    @property
    def edit(self) -> Edit:
        rows = None if self.first is None or self.last is None else tuple(range(self.first, self.last + 1))
        return Edit(self.name, self.strength, rows)


@dataclass(frozen=True)
class Mixing:
    """The rows of ws from `row` on come from the latents `other`."""

    other: str
    row: int


@dataclass(frozen=True)
class Look:
    """Latents (a result's folder or a file of latents, below the session's folder) and what is done to them."""

    base: str
    edits: tuple[Move, ...] = ()
    mix: Mixing | None = None


@dataclass(frozen=True)
class Draw:
    """Draw a look, and send the picture under the number `id`. In a `slot` only the newest one waits."""

    id: int
    look: Look
    slot: Literal["main", "other"] = "main"


@dataclass(frozen=True)
class Invert:
    """Invert a picture; None is what the recipe has."""

    picture: str
    recipe: str
    steps: int | None = None
    clip: float | None = None
    seed: int = 0
    fit: Literal["crop", "pad", "stretch"] = "crop"
    terms: str | None = None


@dataclass(frozen=True)
class Tune:
    """Tune the generator to a result."""

    result: str
    method: str
    steps: int | None = None
    terms: str | None = None


@dataclass(frozen=True)
class Refine:
    """Add to a result what its latents lack."""

    result: str
    refiner: Literal["styleres", "warpres"]


@dataclass(frozen=True)
class Restore:
    """Find the picture of which another is a measurement."""

    picture: str
    operator: str
    recipe: str = "robust"
    steps: int | None = None
    terms: str | None = None
    simulate: bool = False


@dataclass(frozen=True)
class Drag:
    """Move points of a drawn look; mask: a PNG as base64, white where it may change."""

    look: Look
    points: tuple[Point, ...]
    mask: str = ""
    steps: int | None = None


@dataclass(frozen=True)
class Lines:
    """Tell the command lines that make a look of its base."""

    look: Look


@dataclass(frozen=True)
class Keep:
    """Write a look as files, from which the work goes on."""

    look: Look


@dataclass(frozen=True)
class Film:
    """Write a film of a look, from nothing to all of it."""

    look: Look


@dataclass(frozen=True)
class Crop:
    """Cut a box out of a picture: left, top, right and bottom as shares of its sides."""

    picture: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Align:
    """Cut the faces out of a picture as those that the generator draws."""

    picture: str


@dataclass(frozen=True)
class Stop:
    """Stop a job; what it has reached is kept."""

    job: int


@dataclass(frozen=True)
class Again:
    """Go on with a job that was stopped, or failed."""

    job: int


Message = Draw | Lines | Invert | Tune | Refine | Restore | Drag | Keep | Film | Crop | Align | Stop | Again
KINDS: dict[str, Any] = {kind.__name__.lower(): kind for kind in get_args(Message)}


def read_message(text: str) -> tuple[Message, int]:
    """The message of a JSON table whose `kind` names it, and the `ticket` under which the page wants its answer.

    Raises UsageError for anything else.
    """
    try:
        table = parse_json(text, dict[str, Any])
        kind, ticket = str(table.pop("kind", "")), conform(table.pop("ticket", 0), int, "ticket")
        if kind not in KINDS:
            raise ValueError(f"its kind is {kind[:40]!r}{nearest(kind, list(KINDS))}")
        message: Message = conform(table, KINDS[kind])
    except ValueError as error:
        raise UsageError(f"a message that is none: {error}") from None
    _check(message)
    return message, ticket


def _check(message: Message) -> None:
    """Raise UsageError for amounts that no page sends."""
    look = getattr(message, "look", None)
    if look is not None and len(look.edits) > MOST_EDITS:
        raise UsageError(f"{len(look.edits)} edits; at most {MOST_EDITS}")
    steps = getattr(message, "steps", None)
    if steps is not None and not 1 <= steps <= 100_000:
        raise UsageError(f"{steps} steps; 1 to 100000")
    texts = [value for name, value in vars(message).items() if isinstance(value, str) and name != "mask"]
    if any(len(text) > LONGEST for text in texts):
        raise UsageError(f"a text of more than {LONGEST} letters")
