"""The recipes that have a name, ours and those of other packages, and where their files are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from latentopt.errors import UsageError
from latentopt.files.resources import resource_folder
from latentopt.registry import Registry


def recipe_names() -> list[str]:
    """The recipes that are shipped, and those of other packages."""
    return sorted(_recipes())


def _recipes() -> Registry:
    """The recipes by name. Ours are files of the folder `recipes`; another package's is `package:name`."""
    return Registry("recipe", {path.stem: str(path) for path in resource_folder("recipes").glob("*.toml")})


def recipe_file(name: str) -> Path:
    """The file of the recipe of that name. Raises UsageError for one that is not known or not there."""
    recipes = _recipes()
    target = recipes.target(name)
    return Path(target) if name in recipes.own else _file_of(target)


def _file_of(value: str) -> Path:
    """`package:name` -> the file `name.toml` in the package's folder, which is not imported."""
    package, _, stem = value.partition(":")
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    found = next((path for folder in folders if (path := Path(folder) / f"{stem}.toml").is_file()), None)
    if found is None:
        raise UsageError(f"the recipe {value} is not there; is the package that brings it installed whole?")
    return found
