"""Stopping long work: at once where nothing is lost by it, after the step where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Interrupted = Callable[[], bool]
"""Whether somebody asked the work to stop."""


def never() -> bool:
    """Nobody asks the work to stop."""
    return False


class StopNow(KeyboardInterrupt):
    """Stop in the midst of a step too; what the step was changing cannot be saved."""


class Interruption:
    """Somebody may ask the work to stop, at any moment: `ask`, from a signal's handler.

    Within `holding` the work looks itself when it can stop, by calling this object; elsewhere KeyboardInterrupt is
    raised where the work happens to be.
    """

    def __init__(self) -> None:
        self.asked = self.held = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        """Raise KeyboardInterrupt, or leave it to the work that holds."""
        self.asked = True
        if not self.held:
            raise KeyboardInterrupt

    @contextmanager
    def holding(self, held: bool) -> Iterator[None]:
        """Hold requests within this context, or (False) answer them, those that wait already too."""
        before, self.held = self.held, held
        try:
            if self.asked and not held:
                raise KeyboardInterrupt
            yield
        finally:
            self.held = before


def holding(interrupted: Interrupted) -> AbstractContextManager[None]:
    """Within it, work that a stop must not tear apart; it asks `interrupted` itself."""
    return interrupted.holding(True) if isinstance(interrupted, Interruption) else nullcontext()


def released(interrupted: Interrupted) -> AbstractContextManager[None]:
    """Within it, work of which nothing is lost: a request is answered by KeyboardInterrupt at once."""
    return interrupted.holding(False) if isinstance(interrupted, Interruption) else nullcontext()
