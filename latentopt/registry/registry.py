"""Names of plug-ins of one kind: what each means, its options, and which values they take."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from latentopt.declarations.declared import Declared, Option, declared, options_of
from latentopt.errors import UsageError

GROUP = "latentopt.plugins"  # entry points, named `kind.name` (space.tilted), whose values are `module:Class`

TYPES: dict[str, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "list": (list, tuple),
    "dict": (dict,),
    "None": (type(None),),
}


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, or the list of all."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def check_type(value: object, annotation: str, place: str) -> None:
    """Raise UsageError, naming `place`, unless `value` is of the annotated type, such as `float | None`, and finite."""
    names = [part.strip().split("[")[0] for part in annotation.split("|")]
    if unknown := [name for name in names if name not in TYPES]:
        raise UsageError(f"{place}: its type {annotation!r} is none that TOML has ({', '.join(unknown)})")
    allowed = tuple(t for name in names for t in TYPES[name])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{place} must be {annotation}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{place} must be a finite number, not {value}")


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))  # once: it looks at every installed package


@cache
def brought(kind: str) -> Mapping[str, list[str]]:
    """{name: what other packages' entry points for a plug-in of that name mean}; several where packages disagree."""
    found: dict[str, set[str]] = {}
    for point in _points():
        of, _, name = point.name.partition(".")
        if of == kind and name:
            found.setdefault(name, set()).add(point.value)
    return {name: sorted(values) for name, values in found.items()}


@dataclass
class Registry:
    """Plug-ins of one kind: name -> `module:Class`, with aliases."""

    kind: str
    own: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def register(self, name: str, target: str, *aliases: str) -> None:
        """Add a plug-in; `target` is `module:Class`. A later registration of the same name replaces the earlier one."""
        self.own[name] = target
        self.aliases.update(dict.fromkeys(aliases, name))

    @property
    def targets(self) -> dict[str, str]:
        """Ours and those of other packages, without the names that `resolve` refuses."""
        ours = self.own.keys() | self.aliases.keys()
        others = {name: found[0] for name, found in brought(self.kind).items() if len(found) == 1 and name not in ours}
        return self.own | others

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def resolve(self, name: str) -> str:
        """The registered name of `name` or its alias.

        Raises UsageError, with the nearest name, for one that is not known, and for one that could mean two plug-ins:
        another package brings a name of ours, or two packages bring it.
        """
        found = brought(self.kind).get(name, [])
        if found and (name in self.own or name in self.aliases):
            raise UsageError(f"{found[0]}: latentopt has a {self.kind} {name!r} already; give it another name")
        if len(found) > 1:
            raise UsageError(f"two packages bring a {self.kind} {name!r}: {' and '.join(found)}; remove one")
        name = self.aliases.get(name, name)
        if name not in self.targets:
            raise UsageError(f"unknown {self.kind} {name!r}{nearest(name, self.targets)}")
        return name

    def target(self, name: str) -> str:
        return self.targets[self.resolve(name)]

    def options(self, name: str) -> dict[str, Option]:
        """The options of a plug-in, without importing it."""
        return options_of(self.target(name))

    def declared(self, name: str) -> Declared:
        """What a plug-in says of itself, without importing it."""
        return declared(self.target(name))

    def check(self, name: str, options: Mapping[str, Any], place: str) -> None:
        """Raise UsageError for an unknown name, key or a wrong type, naming `place` and the nearest valid word."""
        known = self.options(name)
        for key, value in options.items():
            if key not in known:
                raise UsageError(f"{place}.{key}: {self.kind} {name!r} has no such option{nearest(key, known)}")
            check_type(value, known[key].type, f"{place}.{key}")
        missing = [key for key, option in known.items() if option.required and key not in options]
        if missing:
            raise UsageError(f"{place}: {self.kind} {name!r} needs {', '.join(missing)}")

    def load(self, name: str) -> Any:
        """Import a plug-in's class or function."""
        target = self.target(name)
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{self.kind} {name!r}: {target} cannot be imported: {error}") from error

    def create(self, name: str, *arguments: object, **options: object) -> Any:
        """Import and construct a plug-in."""
        return self.load(name)(*arguments, **options)
