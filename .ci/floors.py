"""Prints a pip constraint at the floor of every dependency and extra that pyproject.toml declares, one a line."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path


def floors(pyproject: Path) -> list[str]:
    """`torch>=2.10` -> `torch==2.10`. Raises SystemExit for a dependency that has no floor, or two of them."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement)
        if match is None:
            raise SystemExit(f"{pyproject}: {requirement!r} declares no oldest release; write it as name>=1.2")
        name, floor = match.groups()
        if found.setdefault(name, floor) != floor:
            raise SystemExit(f"{pyproject}: two oldest releases of {name}: {found[name]} and {floor}")
    return [f"{name}=={floor}" for name, floor in found.items()]


if __name__ == "__main__":
    print(*floors(Path(__file__).parent.parent / "pyproject.toml"), sep="\n")
