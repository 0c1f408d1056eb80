"""Long work told as it happens: phases that count towards a total, and lines of text.

Whatever takes long says so with `phase`, whatever is worth a line with `tell`; who listens is up to the caller. The
commands show both on the terminal; in Python lines go to the log "latentopt" unless a `Listener` is given to
`listening`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")

Advance = Callable[[int], object]
"""So many more are done."""


class Listener(Protocol):
    """What is told of long work."""

    def phase(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """A phase of `total` units begins, and ends with the context."""

    def tell(self, text: str) -> None:
        """A line for the user."""


class _Log:
    """Where nobody listens: lines go to the log."""

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        yield lambda count: None

    def tell(self, text: str) -> None:
        logging.getLogger("latentopt").info(text)


LOG = _Log()
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def _current() -> Listener:
    return _listeners.get()[-1] if _listeners.get() else LOG


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of all phases within this context.

    It ends with those that began within it and are not ended: a generator that is given up ends theirs only when it is
    collected, which may be after this one, and changes nothing then.
    """
    before = _listeners.get()
    _listeners.set((*before, listener))
    try:
        yield
    finally:
        if listener in _listeners.get():
            _listeners.set(before)


def phase(label: str, total: int, unit: str = "") -> AbstractContextManager[Advance]:
    """A phase of long work: `with phase("drawing", 64, "pictures") as advance: ... advance(8)`."""
    return _current().phase(label, total, unit)


def counted(items: Sequence[T], label: str, unit: str) -> Iterator[T]:
    """The items one after the other, as a phase."""
    with phase(label, len(items), unit) as advance:
        for item in items:
            yield item
            advance(1)


def tell(text: str) -> None:
    """A line for the user, such as what was done without being asked for."""
    _current().tell(text)
