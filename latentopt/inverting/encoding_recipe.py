"""What `encode` does as a recipe, and the encoders that such a recipe starts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentopt.encoders import KINDS
from latentopt.encoders.inference import Encoding
from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.registry import INITIALIZERS

NEEDS = {"share": "mix", "bootstrap_network": "bootstrap"}  # options of an encoder's start


def encoding_recipe(
    encoder: str | Path,
    terms: Sequence[Mapping[str, object]] | None,
    start: Mapping[str, Any],
    settings: Sequence[str] = (),
    refine: object = None,
) -> Recipe:
    """What `encode` does, as a recipe of no steps. settings: entries of it, as `Recipe.override` takes them; refine: a
    refiner, as `Recipe.refined` takes it.

    Raises UsageError for options that do not go together, and for a start that is no encoder.
    """
    for option, needs in NEEDS.items():
        if start.get(option) is not None and start.get(needs) is None:
            raise UsageError(f"--{option.replace('_', '-')} needs --{needs}: without it, it has no effect")
    source = {"kind": encoder} if encoder in KINDS else {"path": str(encoder)}
    init = {"name": "encoder", **source, **{key: value for key, value in start.items() if value is not None}}
    changes: dict[tuple[str | int, ...], object] = {("stages", 0, "init"): init}
    if terms is not None:
        changes["stages", 0, "terms"] = list(terms)
    recipe = Recipe.load("encode").override(settings, changes)
    first, *rest = recipe.stages
    if first.steps or first.init["name"] != "encoder" or any(stage.refine is None for stage in rest):
        raise UsageError("encode optimises nothing and starts from an encoder; latentopt invert does the rest")
    return recipe if refine is None else recipe.refined(refine)


def encoding_of(recipe: Recipe, generator: Generator) -> Encoding:
    """The encoders that a recipe starts with."""
    init = {key: value for key, value in recipe.stages[0].init.items() if key != "name"}
    return INITIALIZERS.create("encoder", generator, **init).encoding
