"""Releases of the packages in use; needs no torch."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version

from latentopt.files.resources import PACKAGE

UNKNOWN = "unknown"


def package_version(name: str = "latentopt") -> str:
    """The installed release of a package; for a checkout of latentopt that of its pyproject.toml; else "unknown"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return _checkout_version() if name == "latentopt" else UNKNOWN


def _checkout_version() -> str:
    try:
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["version"] if project["name"] == "latentopt" else UNKNOWN
    except (OSError, KeyError, ValueError):
        return UNKNOWN
