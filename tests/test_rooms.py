"""Which room may import which: downwards only, and so without circles; and who may name a family of generators."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "latentopt"

MAY_IMPORT = {  # from the bottom to the top: a room may import rooms that stand before it, and of those only these
    "errors": set(),
    "watching": set(),
    "files": {"errors"},
    "declarations": {"errors"},
    "registry": {"errors", "declarations"},
    "types": {"errors", "files"},
    "protocols": {"types"},
    "geometry": {"errors", "types", "protocols"},
    "devices": {"errors"},
    "recipe": {"errors", "files", "declarations", "registry", "protocols"},
    "pictures": {"errors", "files"},
    "generators": {"errors", "devices", "files", "registry", "types", "protocols", "geometry"},
    "hub": {"errors", "watching", "files"},
    "checkpoints": {"errors", "files", "hub", "registry", "types", "protocols", "geometry", "pictures", "generators"},
    "perceptual": {"errors", "files", "protocols", "pictures", "checkpoints"},
    "statistics": {"errors", "watching", "files", "types", "protocols", "generators", "checkpoints", "perceptual"},
    "data": {"errors", "files", "pictures"},
    "judge": {"errors", "files", "pictures", "perceptual"},
    "parameterizations": {"errors", "registry", "types", "protocols", "geometry", "generators", "statistics"},
    "terms": {"errors", "registry", "types", "protocols", "pictures", "perceptual", "statistics"},
    "operators": {"errors", "protocols", "pictures", "statistics"},
    "encoders": {"errors", "devices", "files", "types", "protocols", "pictures", "checkpoints"},
    "refiners": {
        "errors",
        "files",
        "registry",
        "types",
        "protocols",
        "pictures",
        "checkpoints",
        "perceptual",
        "encoders",
    },
    "initializers": {
        "errors",
        "watching",
        "files",
        "types",
        "protocols",
        "geometry",
        "pictures",
        "checkpoints",
        "statistics",
        "encoders",
    },
    "loop": {"errors", "registry", "types", "protocols", "geometry", "devices", "recipe", "statistics", "operators"},
    "results": {"errors", "files", "registry", "types", "protocols", "recipe", "pictures", "checkpoints"},
    "faces": {"errors", "watching", "files", "registry", "types", "protocols", "pictures", "results"},
    "inverting": {
        "errors",
        "watching",
        "files",
        "registry",
        "types",
        "protocols",
        "devices",
        "recipe",
        "pictures",
        "generators",
        "checkpoints",
        "statistics",
        "encoders",
        "loop",
        "results",
        "faces",
    },
    "restoring": {
        "errors",
        "files",
        "registry",
        "protocols",
        "recipe",
        "pictures",
        "perceptual",
        "statistics",
        "operators",
        "loop",
        "results",
        "inverting",
        "watching",
    },
    "editing": {
        "errors",
        "watching",
        "files",
        "registry",
        "types",
        "protocols",
        "geometry",
        "pictures",
        "checkpoints",
        "statistics",
        "judge",
        "results",
    },
    "dragging": {
        "errors",
        "watching",
        "files",
        "types",
        "protocols",
        "recipe",
        "pictures",
        "operators",
        "results",
        "inverting",
        "editing",
    },
    "preflight": {
        "errors",
        "watching",
        "files",
        "types",
        "protocols",
        "pictures",
        "statistics",
        "encoders",
        "initializers",
    },
    "sharing": {
        "errors",
        "watching",
        "files",
        "protocols",
        "pictures",
        "hub",
        "checkpoints",
        "statistics",
        "results",
        "editing",
        "preflight",
    },
    "evaluation": {
        "errors",
        "watching",
        "files",
        "registry",
        "types",
        "protocols",
        "recipe",
        "pictures",
        "perceptual",
        "statistics",
        "judge",
        "parameterizations",
        "results",
        "inverting",
        "editing",
    },
    "report": {"files", "protocols", "recipe", "pictures", "judge", "results", "inverting", "editing", "evaluation"},
    "training": {
        "errors",
        "devices",
        "files",
        "types",
        "protocols",
        "pictures",
        "generators",
        "checkpoints",
        "perceptual",
        "statistics",
        "data",
        "judge",
        "encoders",
        "refiners",
    },
    "scale": {"errors", "watching", "files", "devices", "results", "inverting"},
    "api": {
        "files",
        "types",
        "protocols",
        "geometry",
        "recipe",
        "pictures",
        "checkpoints",
        "statistics",
        "judge",
        "encoders",
        "refiners",
        "results",
        "faces",
        "inverting",
        "restoring",
        "editing",
        "dragging",
        "preflight",
        "evaluation",
        "report",
        "sharing",
        "training",
        "scale",
    },
    "studio": {
        "errors",
        "watching",
        "files",
        "registry",
        "types",
        "protocols",
        "recipe",
        "pictures",
        "refiners",
        "results",
        "inverting",
        "editing",
        "preflight",
        "api",
    },
    "commands": {
        "errors",
        "watching",
        "files",
        "registry",
        "protocols",
        "geometry",
        "devices",
        "recipe",
        "pictures",
        "generators",
        "checkpoints",
        "statistics",
        "data",
        "judge",
        "encoders",
        "refiners",
        "results",
        "faces",
        "inverting",
        "restoring",
        "editing",
        "dragging",
        "preflight",
        "evaluation",
        "report",
        "training",
        "scale",
        "api",
        "studio",
    },
    "integrations": {"errors", "protocols", "recipe", "restoring"},
    "__main__": {"commands"},
}
FAMILY_ROOMS = {"generators", "checkpoints", "training", "data", "bundled"}  # where a family of generators has its name

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The first part of the path within the package; a module that lies beside the rooms is one by itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The rooms that a module's statements import, anywhere in it, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of what is imported"
            names = [f"latentopt.{a.name}" for a in node.names] if node.module == "latentopt" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("latentopt."):
                yield name.split(".")[1], node.lineno


def violations(text: str, room: str, place: str) -> list[str]:
    """`file:line: room imports room` for all that the table does not allow."""
    allowed = MAY_IMPORT[room] | {room}
    return [f"{place}:{line}: {room} imports {to}" for to, line in imported(ast.parse(text)) if to not in allowed]


def test_every_room_has_its_line():
    rooms = {room_of(path) for path in FILES} - {"__init__", "bundled"}
    assert rooms == set(MAY_IMPORT)


def test_the_table_points_downwards():
    """A room that stood before what it imports could be part of a circle."""
    for i, (room, below) in enumerate(MAY_IMPORT.items()):
        assert below <= set(list(MAY_IMPORT)[:i]), room


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_downwards(room):
    files = [path for path in FILES if room_of(path) == room]
    found = [v for path in files for v in violations(path.read_text(encoding="utf-8"), room, str(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "statement", "to"),
    [
        ("recipe", "from latentopt.terms.pixel import L2", "terms"),
        ("loop", "import latentopt.inverting.batch", "inverting"),
        ("terms", "def f():\n    from latentopt import api", "api"),
        ("types", "from latentopt.protocols import Generator", "protocols"),
    ],
)
def test_a_forbidden_import_is_named_with_its_line(room, statement, to):
    line = len(statement.splitlines())
    assert violations(f"import torch\n{statement}\n", room, "x.py") == [f"x.py:{line + 1}: {room} imports {to}"]


def test_few_modules_lie_beside_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def family_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names, imports and texts of a module that speak of a family, with the line; what docstrings say is prose."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        values = (getattr(node, field, None) for field in ("id", "attr", "name", "module", "value", "arg"))
        texts = [value for value in values if isinstance(value, str) and id(node) not in prose]
        yield from ((text, node.lineno) for text in texts if re.search("stylegan[23]", text.lower()))


def test_families_of_generators_are_named_in_their_rooms_only():
    """Elsewhere a generator is `latentopt.protocols.Generator`."""
    files = [path for path in FILES if room_of(path) not in FAMILY_ROOMS]
    found = [
        f"{path}:{line}: {text!r}"
        for path in files
        for text, line in family_names(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


def test_a_family_that_is_named_is_found():
    text = '"""StyleGAN2."""\nfrom latentopt.generators.stylegan2 import StyleGAN2\n# StyleGAN2\nx = "StyleGAN3"\n'
    assert [line for _, line in family_names(ast.parse(text))] == [2, 2, 4]
