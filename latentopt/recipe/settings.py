"""Settings of a recipe's entries, such as `stages.0.lr=0.02`: their values, and putting them in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentopt.errors import UsageError
from latentopt.files.toml import parse_toml


def read_value(text: str) -> object:
    """The value that a TOML text means, or the text where it is none."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def assign(table: Any, key: Sequence[str | int], value: object) -> None:
    """Put `value` at a place; a number, as text too, counts the entries of a list."""
    *parents, last = key
    try:
        for part in parents:
            table = table[_entry(table, part)]
        table[_entry(table, last)] = value
    except (KeyError, IndexError, TypeError, ValueError):
        place = ".".join(map(str, key))
        raise UsageError(f"--set {place}: the recipe has no such entry") from None


def _entry(table: Any, part: str | int) -> str | int:
    """The key of a table, or the number of an entry that a list has. Raises IndexError, TypeError or ValueError."""
    if not isinstance(table, list):
        return str(part)
    number = int(part)
    if not 0 <= number < len(table):
        raise IndexError(number)
    return number
