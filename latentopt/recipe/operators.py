"""Operators as people write them: `down:8,jpeg:12`, `blur:kernel.png`, `package.module:function`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from latentopt.declarations.declared import Option
from latentopt.errors import UsageError
from latentopt.files.toml import parse_toml
from latentopt.registry import OPERATORS, check_type, nearest

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def parse_operators(text: str) -> list[dict[str, Any]]:
    """Tables of operators, separated by commas and done in that order.

    What stands behind the colons are options, `name=value` or values alone: each of these goes to the first option that
    is left and takes such a value. A name that is no operator's and is followed by one other name is a module and its
    function. Raises UsageError.
    """
    return [_parse(part.strip(), text) for part in text.split(",")]


def _parse(part: str, text: str) -> dict[str, Any]:
    name, *given = part.split(":")
    if not name:
        raise UsageError(f"operator {text!r}: a name is missing; write it as down:8 or down:8,jpeg:12")
    if name not in OPERATORS and name not in OPERATORS.aliases:
        if FUNCTION.fullmatch(part) and _is_module(name):
            return {"name": "call", "function": part}
        hint = "" if not FUNCTION.fullmatch(part) else "; a function of your own is written package.module:function"
        raise UsageError(f"unknown operator {name!r}{nearest(name, OPERATORS.targets)}{hint}")
    if OPERATORS.declared(name).runs_code:  # its option has a colon itself
        return {"name": name, "function": part.partition(":")[2]}
    options = OPERATORS.options(name)
    table: dict[str, Any] = {"name": OPERATORS.resolve(name)}
    for value in given:
        key, separator, named = value.partition("=")
        if separator:
            table[key.strip()] = _value(named)
        else:
            table[_fitting(options, table, _value(value), part)] = _value(value)
    return table


def _is_module(name: str) -> bool:
    """Whether that can be a module; of one in a package nothing is known before the package is imported."""
    try:
        return "." in name or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _fitting(options: Mapping[str, Option], table: Mapping[str, Any], value: object, part: str) -> str:
    """The first option that is not given yet and takes such a value."""
    for key, option in options.items():
        if key not in table:
            try:
                check_type(value, option.type, key)
            except UsageError:
                continue
            return key
    takes = ", ".join(f"{key} ({option.type})" for key, option in options.items()) or "none"
    raise UsageError(f"operator {part!r}: no option is left for {value!r}; options: {takes}")


def _value(text: str) -> object:
    """A number or a truth value as TOML writes it; other text as it is."""
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text
