"""The latent space of a recipe: which there are, which recipe goes with one, and a recipe in another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from latentopt.errors import UsageError
from latentopt.recipe.entries import checked_plugin
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import Stage
from latentopt.registry import PARAMETERIZATIONS

LATENT = frozenset({"ws", "styles"})  # the fields that hold an image's code


def latent_spaces() -> list[str]:
    """The spaces that write latents."""
    return [name for name in PARAMETERIZATIONS if is_latent(name)]


def is_latent(space: str) -> bool:
    return bool(LATENT & PARAMETERIZATIONS.declared(space).owns)


def space_recipe(space: str, held: bool) -> str:
    """The recipe that goes with a latent space; `held`: the code is to stay within bounds.

    A space that is free unless its `clip` asks for bounds, and reads a file only then, goes with ii2s: it is made for
    that.
    """
    declared, options = PARAMETERIZATIONS.declared(space), PARAMETERIZATIONS.options(space)
    bounded_if_asked = "clip" in options and any("clip" in others for others in declared.reads_if.values())
    return "ii2s" if held and bounded_if_asked else declared.recipe or "i2s"


def checked_latent_space(space: str) -> str:
    """Its name. Raises UsageError for a space of something else than latents."""
    space = PARAMETERIZATIONS.resolve(space)
    if not is_latent(space):
        raise UsageError(
            f"--space {space}: not a latent space; known: {', '.join(latent_spaces())}. What else a recipe moves, its "
            "stages say (optimize; f is in recipe bdinvert)"
        )
    return space


def with_space(recipe: Recipe, space: str, options: Mapping[str, Any]) -> Recipe:
    """The same recipe with its latent space replaced in every stage that has one.

    What the recipe asks of its own space (its clip, its learning rate) goes along where the new space knows it too;
    a default of the old space does not. `options` that are not None come on top. Raises UsageError.
    """
    space = checked_latent_space(space)
    owns = PARAMETERIZATIONS.declared(space).owns
    given = {key: value for key, value in options.items() if value is not None}
    PARAMETERIZATIONS.check(space, given, "--space")
    known = {"lr", *PARAMETERIZATIONS.options(space)}

    def swap(stage: Stage) -> Stage:
        latent = [part for part in stage.optimize if is_latent(part["name"])]
        if not latent:
            return stage
        old = PARAMETERIZATIONS.options(latent[0]["name"])
        asked = {key: value for key, value in latent[0].items() if key not in old or value != old[key].default}
        kept = {key: value for key, value in asked.items() if key in known}
        others = (
            p for p in stage.optimize if p not in latent and not owns & PARAMETERIZATIONS.declared(p["name"]).owns
        )
        part = checked_plugin({"name": space, **kept, **given}, PARAMETERIZATIONS, "--space", extra="lr")
        return replace(stage, optimize=(part, *others))

    return replace(recipe, stages=tuple(swap(stage) for stage in recipe.stages))
