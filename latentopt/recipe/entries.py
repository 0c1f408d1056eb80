"""The plug-ins that a stage's tables name: checked against what each says of its options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from latentopt.errors import UsageError
from latentopt.recipe.operators import parse_operators
from latentopt.registry import OPERATORS, PARAMETERIZATIONS, TERMS, Registry, check_type, nearest


def checked_plugin(
    entry: object, registry: Registry, place: str, also: Sequence[str] = (), extra: str | None = None
) -> dict[str, Any]:
    """A name or a table with `name` and options, checked; `extra` is a numeric key of the stage, not the plug-in."""
    table = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"{place} must be the name of a {registry.kind}, or a table with a name")
    number = {extra: table.pop(extra)} if extra in table else {}
    for key, value in number.items():
        check_type(value, "float", f"{place}.{key}")
    table = {key: value for key, value in table.items() if value is not None}
    if name not in also:
        name = registry.resolve(name)
        registry.check(name, table, place)
        files = {key: os.path.expanduser(table[key]) for key in registry.declared(name).reads if table.get(key)}  # noqa: PTH111
        table |= files
        defaults = {key: option.default for key, option in registry.options(name).items()}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
        table = {key: value for key, value in plain.items() if value is not None} | table
    elif table:
        raise UsageError(f"{place}: {name!r} takes no options")
    return {"name": name, **table, **number}


def checked_operators(entry: object, place: str) -> dict[str, Any] | list[dict[str, Any]]:
    """One operator, or several in order: `down:8,jpeg:12` (`latentopt.recipe.operators`), a table, or a list of these.

    Raises UsageError.
    """
    entries = entry if isinstance(entry, list | tuple) else [entry]
    parts = [part for one in entries for part in (parse_operators(one) if isinstance(one, str) else [one])]
    if not parts:
        raise UsageError(f"{place} must name at least one operator")
    checked = [
        checked_plugin(part, OPERATORS, place if len(parts) == 1 else f"{place}.{i}") for i, part in enumerate(parts)
    ]
    return checked[0] if len(checked) == 1 else checked


def checked_plugins(entries: object, registry: Registry, place: str, extra: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(entries, list | tuple) or not entries:
        raise UsageError(f"{place} must be a list of at least one {registry.kind}")
    parts = tuple(checked_plugin(entry, registry, f"{place}.{i}", extra=extra) for i, entry in enumerate(entries))
    names = [part["name"] for part in parts]
    if len(set(names)) != len(names):
        raise UsageError(f"{place}: {registry.kind} named twice: {', '.join(names)}")
    return parts


def checked_terms(entries: object, spaces: Sequence[str], place: str) -> tuple[dict[str, Any], ...]:
    """The terms of a stage that optimises in `spaces`, each with those that it `moves` where it does not move all."""
    if not isinstance(entries, list | tuple):
        return checked_plugins(entries, TERMS, place, "weight")
    plain = [
        {key: value for key, value in entry.items() if key != "moves"} if isinstance(entry, Mapping) else entry
        for entry in entries
    ]
    parts = checked_plugins(plain, TERMS, place, "weight")
    given = [entry.get("moves") if isinstance(entry, Mapping) else None for entry in entries]
    moves = [None if one is None else _moved(one, spaces, f"{place}.{i}.moves") for i, one in enumerate(given)]
    still = set(spaces).difference(*(spaces if one is None else one for one in moves))
    if still:
        raise UsageError(f"{place}: no term moves {', '.join(sorted(still))}; add it to the moves of one")
    return tuple(part if one is None else {**part, "moves": one} for part, one in zip(parts, moves, strict=True))


def _moved(entry: object, spaces: Sequence[str], place: str) -> list[str]:
    if not isinstance(entry, list | tuple) or not entry or not all(isinstance(name, str) for name in entry):
        raise UsageError(f"{place} must be a list of at least one space, not {entry!r}")
    names = [PARAMETERIZATIONS.resolve(name) for name in entry]
    for name in names:
        if name not in spaces:
            raise UsageError(f"{place}: {name} is not optimised in this stage{nearest(name, list(spaces))}")
    return names


def terms_of(text: str | None) -> list[dict[str, object]] | None:
    """`perceptual=1,l2=0.5` as a recipe has it; None where nothing is given."""
    if text is None:
        return None
    entries: list[dict[str, object]] = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            entries.append({"name": name.strip(), "weight": float(weight or 1)})
        except ValueError:
            raise UsageError(f"--terms {text}: write it as perceptual=1,l2=0.5") from None
    return entries
