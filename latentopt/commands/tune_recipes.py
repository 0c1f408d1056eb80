"""The recipes of `latentopt tune`: what inverts pictures that are not inverted yet, and what tunes the weights."""

from __future__ import annotations

from typing import Any

from latentopt.commands.invert import start_entry
from latentopt.recipe.entries import terms_of
from latentopt.recipe.placement import with_placement
from latentopt.recipe.recipe import Key, Recipe


def method_recipe(method: str) -> Recipe:
    """The recipe of a name or file. Raises UsageError for one that tunes nothing, with those that do."""
    found = Recipe.load(method)
    if found.split()[1] is None:
        from latentopt.inverting.tuning import tuning_recipe

        tuning_recipe(found, found)  # says which recipes tune
    return found


def inversion_of(method: Recipe, init: str | None, options: dict[str, Any]) -> Recipe:
    """What inverts IMAGES: the method's own first stages, or the default recipe for a method without."""
    recipe = method.split()[0] or Recipe.load("ii2s")
    given: dict[Key, object] = {("stages", 0, "init"): start_entry(init)} if init is not None else {}
    batch = options["batch"]
    given |= {("stages", i, "batch"): batch for i in range(len(recipe.stages)) if batch is not None}
    recipe = recipe.in_every_stage(terms=terms_of(options["terms"])).changed(given)
    return with_placement(recipe) if options["placement"] else recipe


def tuning_of(method: Recipe, earlier: Recipe, options: dict[str, Any]) -> Recipe:
    """The stages of the method that tune, as the options have them, from results of the recipe `earlier`."""
    from latentopt.inverting.tuning import tuning_recipe

    recipe = tuning_recipe(method, earlier)
    recipe = recipe.in_every_stage(steps=options["steps"], terms=terms_of(options["terms"]))
    given: dict[Key, object] = {} if options["lr"] is None else {("stages", 0, "lr"): options["lr"]}
    for i, stage in enumerate(recipe.stages):
        given |= {("stages", i, "batch"): options["batch"]} if options["batch"] is not None else {}
        for j in (stage.optimize.index(part) for part in stage.spaces("deltas")):
            names = [key for key in ("layers", "rank", "sigma") if options[key] is not None]
            given |= {("stages", i, "optimize", j, key): options[key] for key in names}
    recipe = recipe.override(options["settings"], given)
    return recipe.sharing(options["batch"] or recipe.stages[0].batch) if options["shared"] else recipe
