"""Everything that `latentopt.api` and `latentopt` offer is there, and commands take their work from it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import latentopt
from latentopt import api

ROOT = Path(latentopt.__file__).parent


@pytest.mark.parametrize("module", [latentopt, api], ids=lambda module: module.__name__)
def test_every_exported_name_can_be_imported_and_is_what_a_type_checker_sees(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert typed == set(module.EXPORTS)
    for name, place in module.EXPORTS.items():
        assert getattr(module, name).__module__ == place, name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        module.nothing_of_the_kind  # noqa: B018


COMMANDS = sorted(path for path in (ROOT / "commands").glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_commands_import_no_torch_at_the_top(path):
    """So that --help and usage errors answer at once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    heavy = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL")
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] in heavy for name in names), ast.unparse(node)
