"""What happens while images are inverted, told as it happens."""

from __future__ import annotations

from dataclasses import dataclass

from latentopt.inversion import Inversion
from latentopt.loop import Step
from latentopt.run import Run


@dataclass(frozen=True)
class Progressed:
    """A batch took a step. `run` may be looked at, not changed."""

    run: Run
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
