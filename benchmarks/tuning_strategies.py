"""The ways of tuning that `tuning.py` compares: the tuning stages of the shipped recipes, from a pivot that is
given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentopt.errors import LatentoptError
from latentopt.recipe.recipe import Recipe
from latentopt.registry import PARAMETERIZATIONS

BASE, WRANGAN = "base", "wrangan"  # the networks
PIVOT, SIMPLE, PTI, LOW_RANK = "pivot", "simple weight tune", "PTI", "low rank"
UNSTOPPED = "PTI, all 350 steps"
ESTIMATED, LEARNED = "sigma estimated", "sigma learned"  # on the base
WRANGAN_PIVOT, JOINT, FIXED = "pivot of WRanGAN", "WRanGAN", "WRanGAN, pivot fixed"


@dataclass(frozen=True)
class Strategy:
    """A way of tuning, the network it starts from, and whether corruption is measured. No recipe: the pivot itself."""

    name: str
    network: str
    recipe: Recipe | None
    corruption: bool = True


def tuning_part(name: str, steps: int | None, stopped: bool = True, **options: object) -> Recipe:
    """The tuning stages of a shipped recipe, from a given pivot; `options` go to its weight space, `steps` to
    all stages.
    """
    recipe = Recipe.load(name).split()[1]
    if recipe is None:
        raise LatentoptError(f"recipe {name!r} tunes nothing")
    table = recipe.table()
    table["stages"][0]["init"] = {"name": "previous"}
    for stage in table["stages"]:
        stage["steps"] = stage["steps"] if steps is None else steps
        stage["stop"] = stage["stop"] if stopped else None
        for part in stage["optimize"]:
            part.update(options if "deltas" in PARAMETERIZATIONS.declared(part["name"]).owns else {})
    return Recipe.from_table(table, name)


def strategies(sigma: Mapping[str, Path], steps: int | None) -> list[Strategy]:
    """What is compared, given the `estimated` sigma file and, where there is a WRanGAN, the `learned` one."""

    def part(name: str, **options: object) -> Recipe:
        return tuning_part(name, steps, **options)

    found = [
        Strategy(PIVOT, BASE, None),
        Strategy(SIMPLE, BASE, part("weights")),
        Strategy(PTI, BASE, part("pti")),
        Strategy(UNSTOPPED, BASE, part("pti", stopped=False)),
        Strategy(LOW_RANK, BASE, part("lowrank")),
        Strategy(ESTIMATED, BASE, part("wrangan", sigma=str(sigma["estimated"]))),
    ]
    if "learned" in sigma:
        learned = str(sigma["learned"])
        found += [
            Strategy(LEARNED, BASE, part("wrangan", sigma=learned)),
            Strategy(WRANGAN_PIVOT, WRANGAN, None),
            Strategy(JOINT, WRANGAN, part("wrangan", sigma=learned)),
            Strategy(FIXED, WRANGAN, part("wrangan-pivot", sigma=learned)),
        ]
    return found
