"""The methods that are compared: recipes by distinct names, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latentopt.errors import UsageError
from latentopt.recipe.placement import with_placement
from latentopt.recipe.recipe import Recipe


def load_recipes(
    names: Sequence[str],
    steps: int | None = None,
    terms: Sequence[Mapping[str, object]] | None = None,
    settings: Sequence[str] = (),
    placement: bool = False,
) -> dict[str, Recipe]:
    """Recipes by distinct names, shipped ones or TOML files; steps, terms: of every stage, where they are given;
    settings: entries of every recipe, as `Recipe.override` takes them; placement: each finds the placement first.

    Raises UsageError for none, an unknown one, and one that goes on from an earlier result.
    """
    found: dict[str, Recipe] = {}
    for name in names:
        recipe = Recipe.load(name)
        if recipe.needs_start:
            raise UsageError(f"recipe {name!r} goes on from an earlier result; compare takes recipes that start anew")
        key = base = Path(name).stem
        number = 1
        while key in found:
            number += 1
            key = f"{base}-{number}"
        recipe = with_steps(recipe, steps).in_every_stage(terms=terms)
        found[key] = (with_placement(recipe, steps) if placement else recipe).override(settings)
    if not found:
        raise UsageError("no recipe to compare; name some with --recipes")
    return found


def with_steps(recipe: Recipe, steps: int | None) -> Recipe:
    """The same recipe with so many steps in every stage; None leaves them. Raises UsageError for less than 1."""
    if steps is not None and steps < 1:
        raise UsageError(f"--steps {steps}: at least 1")
    return recipe.in_every_stage(steps=steps)


def capped(recipe: Recipe, steps: int) -> Recipe:
    """The same recipe with at most `steps` steps a stage."""
    return replace(recipe, stages=tuple(replace(s, steps=min(s.steps, steps)) for s in recipe.stages))
