"""Who does the work on many images: this process, or others that an engine has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from latentopt.errors import UsageError
from latentopt.inverting.encoding import BatchEncoder
from latentopt.inverting.events import Event
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread
from latentopt.watching.interruption import Interrupted

Work = Inverter | BatchEncoder
"""What is done to images: it can be sent to another process, with its generator."""


class Engine(Protocol):
    """Other processes, which do work on images and keep the results in its output folder."""

    def __call__(self, work: Work, items: Sequence[Item | Unread], interrupted: Interrupted) -> Iterator[Event]:
        """Events as they happen; where `interrupted` says so, all is saved and KeyboardInterrupt raised."""


def with_engine(
    engine: Engine | None, work: Work, here: Callable[[Sequence[Item | Unread], Interrupted], Iterable[Event]]
) -> Callable[[Sequence[Item | Unread], Interrupted], Iterable[Event]]:
    """The work by an engine, or `here` without one. Raises UsageError for work that no other process can do."""
    if engine is None:
        return here
    if work.out is None:
        raise UsageError("other processes leave their results in a folder: name one, out=")
    if work.together:
        raise UsageError("images that share variables are one batch: there is nothing to be divided among workers")
    return lambda items, interrupted: engine(work, items, interrupted)
