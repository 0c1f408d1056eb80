"""Starts the command line. Nothing is imported before Ctrl-C has an answer, since the imports take seconds."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line, in a process of its own."""
    signal.signal(signal.SIGINT, interrupt)
    from latentopt.commands import main as run

    run()


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: KeyboardInterrupt, but at once in the midst of an import, of which packages make other errors.

    Whatever work must not be torn apart has a handler of its own meanwhile.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
