"""The files that a recipe reads beside the generator: P-norm statistics, sigma, a saved start, encoders."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from latentopt.encoders.files import start_files
from latentopt.errors import StatisticsError
from latentopt.pnorm import PNorm, find_stats
from latentopt.protocols import Generator
from latentopt.recipe import Recipe
from latentopt.sigma import Sigma, find_sigma


def recipe_statistics(recipe: Recipe, generator: Generator) -> tuple[PNorm, Path] | None:
    """The P-norm statistics that the recipe names or the generator has, and their file; None where there are none."""
    named = recipe.statistics_file
    try:
        if named is not None:
            return PNorm.load(Path(named), generator), Path(named)
        return find_stats(generator)
    except StatisticsError:
        return None


def recipe_sigma(recipe: Recipe, generator: Generator) -> tuple[Sigma, Path] | None:
    """What scales the weights in the recipe's epsilon space, and its file; None where the recipe has no such space.

    Raises StatisticsError for a file that cannot be used.
    """
    named = [part["sigma"] for stage in recipe.stages for part in stage.optimize if part.get("sigma")]
    if named:
        return Sigma.load(Path(named[0]), generator), Path(named[0])
    return find_sigma(generator) if recipe.needs_sigma else None


def recipe_files(recipe: Recipe, generator: Generator) -> dict[str, str]:
    """All of them, with their hashes."""
    paths = [Path(name) for name in recipe.files]
    if recipe.needs_statistics:
        with contextlib.suppress(StatisticsError):
            paths.append(find_stats(generator)[1])
    if recipe.needs_sigma and (found := find_sigma(generator)) is not None:
        paths.append(found[1])
    paths += [path for stage in recipe.stages for path in start_files(stage.init, generator)]
    paths = [path / "inputs.safetensors" if path.is_dir() else path for path in paths]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in paths if p.is_file()}
