"""JSON of files that may be damaged or hostile: bounded in size, depth and numbers, and of the types it should have.

What a kind of file holds is declared once where it is read, as a dataclass or a TypedDict; `parse_json` checks it.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

TEXT_LIMIT = 256 << 20  # bytes; a history of a million steps has fewer
DEPTH_LIMIT = 64  # levels; ours have fewer than ten
MOST = 1000  # entries of a sequence in a configuration
LARGEST_INTEGER = 1 << 63


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The UTF-8 text of a file. Raises OSError, and ValueError for more than `limit` bytes, which are not read."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")  # a pipe would be waited for
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"{size} bytes, more than such a file has ({limit})")
    return path.read_text(encoding="utf-8")


def parse_json(text: str, expected: Any = Any) -> Any:
    """The value of a JSON text, of the type `expected`. Raises ValueError, naming the entry, for anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nests too deeply") from None
    check_bounds(value)
    return conform(value, expected)


def check_bounds(value: object) -> None:
    """Raise ValueError for what nests too deeply, or has a number that no computer word holds."""
    level: list[object] = [value]
    for _ in range(DEPTH_LIMIT):
        for item in level:
            if type(item) is int and not -LARGEST_INTEGER <= item < LARGEST_INTEGER:
                raise ValueError("a number of more than 64 bits")
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise ValueError(f"nests more than {DEPTH_LIMIT} levels deep")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def conform(value: Any, expected: Any, place: str = "") -> Any:
    """`value` if it is of the type `expected`, as JSON has it; tuples and dataclasses are made where they are expected.

    Known are None, bool, int, float (finite), str, Any, Literal, unions, list, tuple, dict and Mapping of texts,
    TypedDicts (further keys are let through) and dataclasses (they are not). Raises ValueError, naming the entry.
    """
    if expected is Any or expected is object:
        return value
    if expected in PLAIN:
        return _plain(value, expected, place)
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments, expected, place)
    if origin is Literal:
        return value if value in arguments and isinstance(value, str | None) else _refuse(value, expected, place)
    if origin in (list, tuple):
        return _sequence(value, origin, arguments, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        table = _table(value, place)
        return {key: conform(item, arguments[1], _at(place, key)) for key, item in table.items()}
    if is_typeddict(expected):
        return _typed_dict(_table(value, place), expected, place)
    if is_dataclass(expected):
        return _record(_table(value, place), expected, place)
    raise TypeError(f"no check for the type {expected}")


def checked_fields(record: Any) -> dict[str, Any]:
    """The values of a dataclass's fields, each of its declared type. Raises ValueError, naming the field."""
    kind: Any = type(record)
    hints = _hints(kind)
    return {field.name: conform(getattr(record, field.name), hints[field.name], field.name) for field in fields(record)}


def check_sizes(name: str, value: object, least: int, largest: int) -> None:
    """Raise ValueError, naming it, for a whole number, or one in a tuple, that is out of bounds; and for a tuple of
    none, or of more than MOST.
    """
    if isinstance(value, tuple) and not 1 <= len(value) <= MOST:
        raise ValueError(f"{name} has {len(value)} entries")
    for size in value if isinstance(value, tuple) else (value,):
        if type(size) is int and not least <= size <= largest:
            raise ValueError(f"{name} {size} is not from {least} to {largest}")


WORDS = {
    None: "nothing",
    type(None): "nothing",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    dict: "a table",
    list: "a list",
    tuple: "a list",
}
PLAIN = (None, type(None), bool, int, float, str)


def _plain(value: Any, expected: Any, place: str) -> Any:
    if expected in (None, type(None)):
        good = value is None
    elif expected is float:
        good = type(value) in (int, float) and math.isfinite(value)
    else:
        good = type(value) is expected
    return value if good else _refuse(value, expected, place)


def _one_of(value: Any, choices: tuple[Any, ...], expected: Any, place: str) -> Any:
    for choice in choices:
        try:
            return conform(value, choice, place)
        except ValueError:
            continue
    return _refuse(value, expected, place)


def _sequence(value: Any, origin: type, arguments: tuple[Any, ...], place: str) -> Any:
    if not isinstance(value, list | tuple):
        _refuse(value, origin, place)
    each = arguments
    if origin is list or arguments[-1] is Ellipsis:
        each = (arguments[0],) * len(value)
    elif len(value) != len(arguments):
        raise ValueError(f"{place or 'it'} has {len(value)} entries, not {len(arguments)}")
    return origin(conform(item, kind, _at(place, i)) for i, (item, kind) in enumerate(zip(value, each, strict=True)))


def _typed_dict(table: dict[str, Any], expected: Any, place: str) -> dict[str, Any]:
    hints = _hints(expected)
    if missing := [key for key in hints if key in expected.__required_keys__ and key not in table]:
        raise ValueError(f"{place or 'it'} lacks {missing[0]!r}")
    return {key: conform(item, hints[key], _at(place, key)) if key in hints else item for key, item in table.items()}


def _record(table: dict[str, Any], expected: Any, place: str) -> Any:
    hints, known = _hints(expected), {f.name: f for f in fields(expected) if f.init}
    if unknown := [key for key in table if key not in known]:
        raise ValueError(f"{place or 'it'} has {unknown[0][:80]!r}, which is not known")
    for name, one in known.items():
        if name not in table and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{place or 'it'} lacks {name!r}")
    return expected(**{key: conform(item, hints[key], _at(place, key)) for key, item in table.items()})


@cache
def _hints(expected: Any) -> dict[str, Any]:
    return get_type_hints(expected)


def _table(value: Any, place: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(value, dict, place)


def _at(place: str, key: str | int) -> str:
    return f"{place}.{str(key)[:80]}" if place else str(key)[:80]


def _refuse(value: Any, expected: Any, place: str) -> Any:
    kind = WORDS.get(expected) or str(expected)
    shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    raise ValueError(f"{place or 'it'} is {shown[:80]}, not {kind}")
