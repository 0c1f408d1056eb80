"""The plug-ins by name, imported when first used, so that a recipe can be checked without importing torch.

The options of a plug-in are the keyword-only arguments of its constructor; they are read from the source text.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from latentopt.errors import UsageError


@dataclass(frozen=True)
class Option:
    """One key of a plug-in's table: the type as written in its constructor, and the default."""

    type: str
    default: Any
    required: bool


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
    """Raise UsageError, naming `place`, unless `value` is of the annotated type, such as `float | None`."""
    allowed = tuple(t for part in annotation.split("|") for t in TYPES[part.strip().split("[")[0]])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{place} must be {annotation}, not {value!r}")


@dataclass
class Registry:
    """Plug-ins of one kind: name -> `module:Class`, with aliases."""

    kind: str
    targets: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def register(self, name: str, target: str, *aliases: str) -> None:
        """Add a plug-in; `target` is `module:Class`. A later registration of the same name replaces the earlier one."""
        self.targets[name] = target
        self.aliases.update(dict.fromkeys(aliases, name))

    def resolve(self, name: str) -> str:
        """The registered name of `name` or its alias. Raises UsageError with the nearest name."""
        name = self.aliases.get(name, name)
        if name not in self.targets:
            raise UsageError(f"unknown {self.kind} {name!r}{nearest(name, self.targets)}")
        return name

    def options(self, name: str) -> dict[str, Option]:
        """The options of a plug-in, without importing it."""
        return _constructor_options(self.targets[self.resolve(name)])

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

    def create(self, name: str, *arguments: object, **options: object) -> Any:
        """Import and construct a plug-in."""
        module, _, attribute = self.targets[self.resolve(name)].partition(":")
        return getattr(importlib.import_module(module), attribute)(*arguments, **options)


@cache
def _constructor_options(target: str) -> dict[str, Option]:
    module, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return _read_options(classes, attribute)


def _read_options(classes: Mapping[str, ast.ClassDef], name: str) -> dict[str, Option]:
    if name not in classes:
        return {}
    for node in classes[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return {
                arg.arg: Option(
                    ast.unparse(arg.annotation), None if default is None else ast.literal_eval(default), default is None
                )
                for arg, default in pairs
            }
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return _read_options(classes, bases[0]) if bases else {}


PARAMETERIZATIONS = Registry("space")
TERMS = Registry("term")
INITIALIZERS = Registry("initialiser")
