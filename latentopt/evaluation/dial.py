"""The dial between distortion and editability (Tov et al. 2021, e4e, section 8.2), turned for any generator.

One method, one setting swept: how tightly the code is clipped in P-norm+, how far it goes from W to W+, or how heavy
the penalty on P-norm+ is. Each point is measured like a method of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import with_space
from latentopt.registry import nearest
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs

CLIPS = (0.5, 1.0, 1.5, 2.0, 3.0, None)  # standard deviations; the last is without a bound
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.0)  # weights of the mean of v^2 over all coordinates
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from W to W+


@dataclass(frozen=True)
class Dial:
    """What is swept.

    about: how; recipes: by setting; shares: of the way from the first recipe's result to the second's, if any.
    """

    name: str
    title: str
    about: str
    recipes: dict[str, Recipe]
    shares: tuple[float, ...] = ()


def find_dial(kind: str) -> Callable[[Generator], Dial]:
    """What makes the dial `clip`, `w-to-w+` or `penalty` for a generator. Raises UsageError for another word."""
    if kind not in DIALS:
        raise UsageError(f"unknown dial {kind!r}{nearest(kind, list(DIALS))}")
    return DIALS[kind]


def _clip(generator: Generator) -> Dial:
    recipes = {f"clip {c:g}" if c is not None else "no clip": _pnorm(clip=c) for c in CLIPS}
    about = "Recipe ii2s-pnorm; the bound on each coordinate in P-norm+, in standard deviations, after every step."
    return Dial("clip", "Clip radius in P-norm+", about, recipes)


def _penalty(generator: Generator) -> Dial:
    """The mean, since the sum that the recipe has would weigh more the more layers there are."""
    coordinates = generator.num_ws * generator.w_dim
    recipes = {f"{weight:g}": _pnorm(l2=weight / coordinates) for weight in PENALTIES}
    about = "Recipe ii2s-pnorm without its clip; the weight of the mean square of the P-norm+ code in the loss."
    return Dial("penalty", "Weight of the P-norm+ penalty", about, recipes)


def _w_to_wplus(generator: Generator) -> Dial:
    """The W+ code is found from the W code, so that the way between them stays within one valley of the loss."""
    plain = Recipe.load("i2s")
    first = replace(with_space(plain, "w", {}), name="i2s in W")
    second = replace(plain.stages[0], init={"name": "previous"})
    both = replace(plain, name="i2s in W, then W+", stages=(*first.stages, second))
    about = "Recipe i2s in W, then on from there in W+; the codes on the straight line between the two."
    return Dial("w-to-w+", "From W to W+", about, {"W": first, "W+": both}, SHARES)


DIALS = {"clip": _clip, "w-to-w+": _w_to_wplus, "penalty": _penalty}


def _pnorm(**options: Any) -> Recipe:
    """ii2s-pnorm with these options of its space alone."""
    recipe = Recipe.load("ii2s-pnorm")
    table = recipe.table()
    table["stages"][0]["optimize"] = [{"name": "p-norm+"} | {k: v for k, v in options.items() if v is not None}]
    return Recipe.from_table(table, recipe.name)


@torch.no_grad()
def along(
    first: Sequence[Inversion], second: Sequence[Inversion], share: float, generator: Generator
) -> list[Inversion]:
    """Results whose ws lie `share` of the way from those of `first` to those of `second`, drawn anew."""
    found = []
    for a, b in zip(first, second, strict=True):
        inputs = b.inputs.replace(ws=torch.lerp(a.inputs.ws, b.inputs.ws, share))
        found.append(replace(b, inputs=inputs, image=_draw(generator, inputs)))
    return found


def _draw(generator: Generator, inputs: GeneratorInputs) -> Tensor:
    return generator.synthesis(inputs.to(generator.device))[0].float().clamp(-1, 1).cpu()
