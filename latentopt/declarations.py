"""What a plug-in says of itself in its source text, read without importing it (or torch).

A class is followed to its bases, in whichever module they stand; a default or a literal may be a constant's name.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from latentopt.errors import UsageError

PROTOCOLS = "latentopt.protocols"  # where `Plugin` has the defaults


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
    examples: Sequence[Mapping[str, Any]] = ({},)


@dataclass(frozen=True)
class Definition:
    """A class or function in the source text of its module."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef

    @property
    def bases(self) -> list[Definition]:
        """The bases of a class that can be found, nearest first."""
        names = self.node.bases if isinstance(self.node, ast.ClassDef) else []
        return [base for name in names if (base := self.module.definition(ast.unparse(name))) is not None]

    def member(self, name: str, *kinds: type[ast.stmt]) -> tuple[Module, Any] | None:
        """The own or inherited statement of one of the kinds that defines `name`, and the module it stands in."""
        body = self.node.body if isinstance(self.node, ast.ClassDef) else []
        for node in body:
            if isinstance(node, kinds) and name in _defined(node):
                return self.module, node
        return next((found for base in self.bases if (found := base.member(name, *kinds)) is not None), None)


@dataclass(frozen=True)
class Module:
    """The source text of a module."""

    name: str
    tree: ast.Module

    def definition(self, name: str) -> Definition | None:
        """The class or function called `name` here, or in the module that it is imported from."""
        first, _, rest = name.partition(".")
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return Definition(self, node)
            if isinstance(node, ast.ImportFrom | ast.Import):
                found = self._imported(node, first, rest)
                if found is not None:
                    return found
        return None

    def _imported(self, node: ast.ImportFrom | ast.Import, first: str, rest: str) -> Definition | None:
        for alias in node.names:
            if (alias.asname or alias.name) != first:
                continue
            if isinstance(node, ast.Import):
                module = source(alias.name)
                return None if module is None else module.definition(rest)
            parent = "." * node.level + (node.module or "")
            package = self.name.rpartition(".")[0]
            parent = importlib.util.resolve_name(parent, package) if node.level else parent
            module = source(f"{parent}.{alias.name}") if rest else source(parent)
            return None if module is None else module.definition(rest or alias.name)
        return None

    def value(self, expression: ast.expr, place: str) -> Any:
        """The value of a literal or of a constant of this module.

        Raises UsageError, naming `place`, for anything else.
        """
        try:
            return ast.literal_eval(expression)
        except ValueError:
            pass
        if isinstance(expression, ast.Name) and (constant := self._constant(expression.id)) is not None:
            return self.value(constant, place)
        raise UsageError(f"{place}: {ast.unparse(expression)!r} is no literal and no constant of {self.name}")

    def _constant(self, name: str) -> ast.expr | None:
        """What a name of this module is set to, once and for all."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and name in _defined(node):
                return node.value
        return None


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


@cache
def source(name: str) -> Module | None:
    """The source text of a module; None for a module that has none, or is not there.

    Raises UsageError for a text that is no Python.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return Module(name, ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{spec.origin}: cannot be read as Python: {error}") from error


@cache
def definition_of(target: str) -> Definition:
    """The class or function that `module:name` means. Raises UsageError where there is none."""
    name, _, attribute = target.partition(":")
    module = source(name)
    found = None if module is None else module.definition(attribute)
    if found is None:
        raise UsageError(f"the plug-in {target} is not there; is the package that brings it installed whole?")
    return found


@cache
def options_of(target: str) -> dict[str, Option]:
    """The options of `module:name`: keyword-only arguments of the function, or of the class's constructor.

    Raises UsageError for an argument without a type, or with a default that cannot be read.
    """
    definition = definition_of(target)
    if isinstance(definition.node, ast.FunctionDef):
        module, constructor = definition.module, definition.node
    else:
        found = definition.member("__init__", ast.FunctionDef)
        if found is None:
            return {}
        module, constructor = found
    pairs = zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True)
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

    Raises UsageError for one that cannot be read, or that names an option which the constructor does not have.
    """
    definition = definition_of(target)
    given: dict[str, Any] = {}
    for entry in fields(Declared):
        literal = definition.member(entry.name, ast.Assign, ast.AnnAssign)
        if literal is not None and literal[0].name != PROTOCOLS and literal[1].value is not None:
            module, node = literal
            value = module.value(node.value, f"{target}, {entry.name}")
            given[entry.name] = frozenset(value) if entry.name == "owns" else value
    found = Declared(**given)
    for name in (found.shares, found.rank):
        if name and name not in options_of(target):
            raise UsageError(f"{target} declares something of {name!r}, which is no option of its constructor")
    return found
