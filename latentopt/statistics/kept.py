"""Statistics that an earlier fit wrote: read before a new fit may replace them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from latentopt.errors import StatisticsError
from latentopt.protocols import Generator

REMEDY = "--overwrite replaces the file, --out chooses another"

Statistics = TypeVar("Statistics")


def kept(out: Path, generator: Generator, load: Callable[[Path, Generator], Statistics]) -> Statistics | None:
    """What `load` reads from `out`, or None where there is no file.

    Raises StatisticsError, naming the remedy, for a file that is damaged or another generator's: a new fit must not
    replace it.
    """
    if not out.exists():
        return None
    try:
        return load(out, generator)
    except StatisticsError as error:
        raise StatisticsError(f"{error}\n{REMEDY}") from error
