"""What is done to every image of a run: edits, sweeps and a move, and what the files of it are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from latentopt.editing.channels import Channel
from latentopt.editing.direction import Direction
from latentopt.editing.latents import file_name
from latentopt.editing.sequence import DIGITS, Edit, apply_edits, rows_text
from latentopt.errors import UsageError
from latentopt.geometry.moves import PictureMove
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

UNEDITED = "unedited"  # the name of pictures that are drawn as they are
MOST_DIGITS = 17  # a number is told by these


@dataclass(frozen=True)
class Sequences:
    """What is done to every image: the edits `done` one after the other, then each sweep's pictures after all of them.

    directions: by name; layers: rows of ws to move instead of the edits' and directions' own; move: of every picture
    that is drawn after edits (or without any), by the network.
    """

    done: Sequence[Edit]
    sweeps: Sequence[Sequence[Edit]]
    directions: Mapping[str, Direction | Channel]
    layers: tuple[int, ...] | None = None
    move: PictureMove | None = None

    def check(self, generator: Generator) -> None:
        """Raise UsageError, before any work, for an edit that no image can have: a name, rows or a strength."""
        mean = GeneratorInputs(generator.broadcast(generator.w_avg[None]))
        for edit in dict.fromkeys(edit for edits in self.steps for edit in edits):
            if not holds_numbers(apply_edits(mean, [edit], self.directions, self.layers)):
                raise UsageError(f"{edit.label}: too strong: what it makes of latents is beyond all numbers")

    def label(self, edits: Sequence[Edit]) -> str:
        """The name of the picture that these edits end with."""
        return file_name(self._text(edits, self._digits))

    def film_label(self, sweep: Sequence[Edit]) -> str:
        """The name of a sweep's film: with its ends, where others are of the same direction and rows."""
        first, rows = sweep[0], rows_text(sweep[0].layers)
        alike = [other for other in self.sweeps if (other[0].name, other[0].layers) == (first.name, first.layers)]
        ends = ""
        if len({(other[0].strength, other[-1].strength) for other in alike}) > 1:
            ends = "..".join(f"{edit.strength:+.{self._digits}g}" for edit in (first, sweep[-1]))
        return file_name("_".join([*self._done, f"{first.name}{ends}{rows}"]))

    def edited(self, inputs: GeneratorInputs, edits: Sequence[Edit]) -> GeneratorInputs:
        """One image's inputs after the edits, and after the move."""
        edited = apply_edits(inputs, edits, self.directions, self.layers)
        return edited if self.move is None else self.move(edited)

    @property
    def steps(self) -> list[list[Edit]]:
        """The edits behind each picture of an image; where nothing is to be done, it is drawn as it is."""
        after = [[*self.done, edit] for sweep in self.sweeps for edit in sweep]
        return [list(self.done[: i + 1]) for i in range(len(self.done))] + after or [[]]

    @property
    def title(self) -> str:
        """A name for the sheet."""
        words = [*self._done, *(s[0].name + "-sweep" for s in self.sweeps)]
        words += [] if self.move is None else [self.move.label]
        return file_name("_".join(words or [UNEDITED]))

    @property
    def headings(self) -> list[str]:
        """Over the columns of the sheet, one for each of `steps`."""
        steps = [edits for edits in self.steps if edits]
        return [
            ("then " if 0 < i < len(self.done) else "") + edits[-1].written(self._digits)
            for i, edits in enumerate(steps)
        ] or [UNEDITED if self.move is None else self.move.label]

    @cached_property
    def _digits(self) -> int:
        """Of the strengths in names: more than usual where the pictures would share names otherwise."""
        steps = {tuple(edits) for edits in self.steps}
        enough = (n for n in range(DIGITS, MOST_DIGITS) if len({self._text(e, n) for e in steps}) == len(steps))
        return next(enough, MOST_DIGITS)

    @property
    def _done(self) -> list[str]:
        return [edit.written(self._digits) for edit in self.done]

    def _text(self, edits: Sequence[Edit], digits: int) -> str:
        words = [edit.written(digits) for edit in edits] + ([] if self.move is None else [self.move.label])
        return "_".join(words) or UNEDITED


def holds_numbers(inputs: GeneratorInputs) -> bool:
    """Whether what edits change is finite."""
    return all(bool(x.isfinite().all()) for x in (inputs.ws, *(inputs.styles or {}).values()))
