"""The files that a recipe reads beside the generator, as its plug-ins declare them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.registry import FILES


def recipe_paths(recipe: Recipe, generator: Generator, kind: str | None = None) -> list[Path]:
    """The files that are there, of one kind or of all; a file that was looked for in vain is left out.

    Raises MissingWeightsError or CheckpointError for encoders that are not there.
    """
    wanted = [reading for reading in recipe.reads if kind in (None, reading.kind)]
    paths = [path for reading in wanted for path in FILES.load(reading.kind)(generator, reading.named, reading.part)]
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def recipe_files(recipe: Recipe, generator: Generator) -> dict[str, str]:
    """All of them, with their hashes."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in recipe_paths(recipe, generator)}
