"""What happens while images are inverted, told as it happens."""

from __future__ import annotations

from dataclasses import dataclass

from latentopt.inverting.batch import Batch
from latentopt.loop.loop import Step
from latentopt.results.inversion import Inversion


@dataclass(frozen=True)
class Progressed:
    """A batch took a step. `batch` may be looked at, not changed."""

    batch: Batch
    stage: int
    step: Step


@dataclass(frozen=True)
class Finished:
    """An image is done (and saved, if there is an output folder); `again` when an earlier run had done it already."""

    inversion: Inversion
    again: bool = False


@dataclass(frozen=True)
class Failed:
    """An image could not be inverted, or (`unreadable`) not even read; the others go on."""

    name: str
    source: str
    reason: str
    unreadable: bool = False


Event = Progressed | Finished | Failed
