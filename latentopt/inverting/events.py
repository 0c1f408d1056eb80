"""What happens while images are inverted, told as it happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from latentopt.inverting.batch import Batch
from latentopt.loop.loop import Step
from latentopt.loop.state import UNSTEADY
from latentopt.results.inversion import Inversion
from latentopt.results.rows import failed_row, row_of


@dataclass(frozen=True)
class Progressed:
    """A batch took a step. `batch` may be looked at, not changed."""

    batch: Batch
    stage: int
    step: Step


@dataclass(frozen=True)
class Measured:
    """So many pictures more were drawn to measure a result."""

    pictures: int


@dataclass(frozen=True)
class Finished:
    """An image is done (and saved, if there is an output folder); `again` when an earlier run had done it already."""

    inversion: Inversion
    again: bool = False

    @property
    def name(self) -> str:
        return self.inversion.name

    @cached_property
    def row(self) -> dict[str, object]:
        """The image's row in the summary."""
        return row_of(self.inversion.name, self.inversion.manifest)


class FinishedElsewhere(Finished):
    """An image that another process has done, of whose result `row` is known; the rest is read from its `folder` when
    it is asked for.
    """

    def __init__(self, folder: Path, row: Mapping[str, object], again: bool) -> None:
        vars(self).update(folder=folder, row=dict(row), again=again)

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @cached_property
    def inversion(self) -> Inversion:
        return Inversion.load(vars(self)["folder"])


@dataclass(frozen=True)
class Advanced:
    """So many image steps were done in another process."""

    steps: int


@dataclass(frozen=True)
class Failed:
    """An image could not be inverted, or (`unreadable`) not even read; the others go on."""

    name: str
    source: str
    reason: str
    unreadable: bool = False

    @cached_property
    def row(self) -> dict[str, object]:
        """The image's row in the summary."""
        return failed_row(self.name, self.reason)


def is_unsteady(row: Mapping[str, object]) -> bool:
    """Whether the loss of an image, of which this is the summary's row, was not finite in some steps."""
    return UNSTEADY in str(row.get("stop_reason"))


@dataclass(frozen=True)
class Noted:
    """Something to say that is about no single image, such as a damaged file that was set aside."""

    text: str


Event = Progressed | Advanced | Measured | Finished | Failed | Noted
