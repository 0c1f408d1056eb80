"""Classes and functions in the source text of modules.

A class is followed to its bases, in whichever module they stand; a value may be a constant's name. No package is
imported on the way, its `__init__.py` included.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from latentopt.errors import UsageError

MARKS = ("ABC", "abc.ABC", "Generic", "typing.Generic", "Protocol", "typing.Protocol")
BARE = {*MARKS, *vars(builtins)}  # bases that may have no source text: there is nothing to read in them


@dataclass(frozen=True)
class Definition:
    """A class or function in the source text of its module."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef

    @property
    def bases(self) -> list[Definition]:
        """The bases of a class, nearest first. Raises UsageError for one whose source text cannot be found."""
        nodes = self.node.bases if isinstance(self.node, ast.ClassDef) else []
        names = [ast.unparse(node.value if isinstance(node, ast.Subscript) else node) for node in nodes]
        found = {name: self.module.definition(name) for name in names}
        lost = [name for name in names if found[name] is None and name not in BARE]
        if lost:
            raise UsageError(f"{self.module.name}:{self.node.name}: the source text of its base {lost[0]} is not found")
        return [base for base in found.values() if base is not None]

    def member(self, name: str, *kinds: type[ast.stmt]) -> tuple[Definition, Any] | None:
        """The own or inherited statement of one of the kinds that defines `name`, and the class it stands in."""
        body = self.node.body if isinstance(self.node, ast.ClassDef) else []
        for node in body:
            if isinstance(node, kinds) and name in _defined(node):
                return self, node
        return next((found for base in self.bases if (found := base.member(name, *kinds)) is not None), None)


@dataclass(frozen=True)
class Module:
    """The source text of a module; `package` is what its relative imports start from, itself for an `__init__.py`."""

    name: str
    package: str
    tree: ast.Module

    def definition(self, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> Definition | None:
        """The class or function called `name` here, or in the module that it is imported from.

        `seen` are the modules and names that led here: packages may import from each other in a circle.
        """
        if (self.name, name) in seen:
            return None
        for node in _statements(self.tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return Definition(self, node)
            if isinstance(node, ast.ImportFrom | ast.Import):
                found = self._imported(node, name, seen | {(self.name, name)})
                if found is not None:
                    return found
        return None

    def _imported(
        self, node: ast.ImportFrom | ast.Import, name: str, seen: frozenset[tuple[str, str]]
    ) -> Definition | None:
        first, _, rest = name.partition(".")
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                if alias.name == "*":
                    return _find(self._parent(node), name, seen)
                if (alias.asname or alias.name) == first:
                    return _find(self._parent(node), alias.name + name.removeprefix(first), seen)
            elif first == (alias.asname or alias.name.partition(".")[0]):  # `import a.b` binds a
                return _find(alias.name if alias.asname else first, rest, seen)
        return None

    def _parent(self, node: ast.ImportFrom) -> str:
        """The module that `from ... import` names; empty for one above the outermost package."""
        try:
            return resolve_name("." * node.level + (node.module or ""), self.package)
        except ImportError:
            return ""

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


def _find(module: str, name: str, seen: frozenset[tuple[str, str]]) -> Definition | None:
    """The class or function that `name`, which may be dotted, means in a module or in the modules of a package."""
    text = source(module)
    found = None if text is None else text.definition(name, seen)
    first, _, rest = name.partition(".")
    return _find(f"{module}.{first}", rest, seen) if found is None and rest else found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a module, those under `if` and `try` included."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _statements(child)


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
        spec = _spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    try:
        return Module(name, package, ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{spec.origin}: cannot be read as Python: {error}") from error


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies; unlike `find_spec` of a dotted name, without importing the packages around it."""
    first, *inner = name.split(".")
    spec = find_spec(first)
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        try:
            spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
        except KeyError:  # a folder without `__init__.py`: Python asks for the package around it
            return find_spec(name)
    return spec


@cache
def definition_of(target: str) -> Definition:
    """The class or function that `module:name` means. Raises UsageError where there is none."""
    name, _, attribute = target.partition(":")
    module = source(name)
    found = None if module is None else module.definition(attribute)
    if found is None:
        raise UsageError(f"the plug-in {target} is not there; is the package that brings it installed whole?")
    return found
