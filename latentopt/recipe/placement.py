"""A recipe in which the placement of the picture is found as well, for generators that draw a move of it themselves."""

from __future__ import annotations

from dataclasses import replace

from latentopt.errors import UsageError
from latentopt.recipe.entries import checked_plugin
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import Stage, checked_stage
from latentopt.registry import OPTIMIZERS, PARAMETERIZATIONS

START, SPACE, CODE = "placement", "placement", "w"
STEPS, RATE = 60, 0.1  # of the stage that finds it
SHARE = 0.1  # of a stage's learning rate, for angle and shift


def with_placement(recipe: Recipe, steps: int | None = None) -> Recipe:
    """The same recipe, which finds the placement first (together with one w, in `steps` steps, 60 by default) and lets
    it move wherever latents do.

    The recipe's own start then sees the picture moved back. A recipe that places the picture itself stays as it is.
    Raises UsageError for one that goes on from an earlier result: that has its placement.
    """
    if any(stage.spaces("transform") for stage in recipe.stages):
        return recipe
    if recipe.needs_start:
        raise UsageError(f"recipe {recipe.name!r} goes on from an earlier result, and from where that one lies")
    stages = tuple(_placed(stage) if stage.spaces("ws") else stage for stage in recipe.stages)
    return replace(recipe, stages=(_finding(recipe.stages[0], STEPS if steps is None else steps), *stages))


def _finding(first: Stage, steps: int) -> Stage:
    table = {
        "init": START,
        "optimize": [_space(RATE * SHARE), CODE],
        "terms": [{key: value for key, value in term.items() if key != "moves"} for term in first.terms],
        "steps": steps,
        "lr": RATE,
        "schedule": {"name": "cosine", "final": 0.05},
        "batch": first.batch,
        "operator": first.operator,
    }
    return checked_stage(table, "--placement", first=True)


def _placed(stage: Stage) -> Stage:
    """Some optimisers take one rate for all."""
    one_rate = OPTIMIZERS.declared(stage.optimizer["name"]).compares
    return replace(stage, optimize=(*stage.optimize, _space(None if one_rate else stage.lr * SHARE)))


def _space(lr: float | None) -> dict:
    given = {"name": SPACE} if lr is None else {"name": SPACE, "lr": lr}
    return checked_plugin(given, PARAMETERIZATIONS, "--placement", extra="lr")
