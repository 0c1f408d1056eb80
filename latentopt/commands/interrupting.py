"""Stopping long work from the keyboard, with everything saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from latentopt.watching.interruption import Interruption, StopNow

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Ctrl-C (or SIGTERM) once ends the phase at once, a step when it is done, and saves; once more stops in the step.

    Yields what says whether somebody asked. The handlers from before come back at the end.
    """
    interruption = Interruption()

    def now(number: int, frame: object) -> None:
        raise StopNow

    def ask(number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, now)
        if interruption.held:
            os.write(2, b"stopping after this step; once more stops now\n")  # a buffered stream may be in use just now
        interruption.ask()

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def stopped_by_terminate() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C is: what is at work saves and ends."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
