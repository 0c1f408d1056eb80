"""What a plug-in declares: the options of its constructor, and the literals of its class."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from latentopt.declarations.source_text import Definition, Module, definition_of
from latentopt.errors import UsageError

PLUGIN = "latentopt.protocols.plugin"  # where `Plugin` has the defaults
FIELDS = ("ws", "noise", "deltas", "styles", "residuals", "transform")  # of GeneratorInputs, which needs torch
READ = ("reads", "reads_if")  # tables by options
LISTS = (set, tuple, list)


@dataclass(frozen=True)
class Option:
    """One key of a plug-in's table: the type as written in its constructor, and the default."""

    type: str
    default: Any
    required: bool


@dataclass(frozen=True)
class Declared:
    """The class literals that the recipe layer knows; see `latentopt.protocols.Plugin` for what each means."""

    owns: frozenset[str] = frozenset()
    reads: Mapping[str, str] = field(default_factory=dict)
    reads_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shares: str = ""
    rank: str = ""
    recipe: str = ""
    exact: bool = False
    varies: bool = False
    compares: bool = False
    runs_code: bool = False
    examples: Sequence[Mapping[str, Any]] = ({},)


@cache
def options_of(target: str) -> dict[str, Option]:
    """The options of `module:name`: keyword-only arguments of the function, or of the class's constructor.

    Raises UsageError for an argument without a type, or with a default that cannot be read.
    """
    return _options(definition_of(target), target)


def _options(definition: Definition, target: str) -> dict[str, Option]:
    if isinstance(definition.node, ast.FunctionDef):
        module, arguments = definition.module, definition.node.args
    elif (found := definition.member("__init__", ast.FunctionDef)) is not None:
        module, arguments = found[0].module, found[1].args
    else:
        return {}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {argument.arg: _option(module, target, argument, default) for argument, default in pairs}


def _option(module: Module, target: str, argument: ast.arg, default: ast.expr | None) -> Option:
    place = f"{target}, option {argument.arg}"
    if argument.annotation is None:
        raise UsageError(f"{place}: write its type, such as {argument.arg}: float")
    value = None if default is None else module.value(default, place)
    return Option(ast.unparse(argument.annotation), value, default is None)


@cache
def declared(target: str) -> Declared:
    """The class literals of `module:name`, its own or inherited.

    Raises UsageError for one that cannot be read, that has the wrong form, or that names an option which the
    constructor does not have. An inherited one may name options of the class that it stands in: a constructor that
    leaves some of its base's options out keeps what the base declares of them.
    """
    definition = definition_of(target)
    given: dict[str, Any] = {}
    for entry in fields(Declared):
        literal = definition.member(entry.name, ast.Assign, ast.AnnAssign)
        if literal is not None and literal[0].module.name != PLUGIN and literal[1].value is not None:
            holder, node = literal
            value = holder.module.value(node.value, f"{target}, {entry.name}")
            known = options_of(target).keys() | (_options(holder, target).keys() if entry.name in READ else set())
            _check_literal(target, entry.name, value, known)
            given[entry.name] = frozenset(value) if entry.name == "owns" else value
    return Declared(**given)


def _check_literal(target: str, name: str, value: Any, options: Set[str]) -> None:
    if name == "owns" and not (isinstance(value, LISTS) and all(entry in FIELDS for entry in value)):
        raise UsageError(
            f"{target}: owns must be a set of fields of GeneratorInputs ({', '.join(FIELDS)}), not {value!r}"
        )
    if name in READ and not isinstance(value, dict):
        raise UsageError(f"{target}: {name} must be a table by options, not {value!r}")
    named = list(value) if name in READ else [value] if name in ("shares", "rank") and value else []
    for others in value.values() if name == "reads_if" else ():
        if not isinstance(others, LISTS):
            raise UsageError(f"{target}: reads_if must give each option a tuple of options, not {others!r}")
        named += others
    for option in named:
        if option not in options:
            raise UsageError(f"{target} declares something of {option!r}, which is no option of its constructor")
