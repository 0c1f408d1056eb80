"""Methods side by side: the same images and seeds through several recipes, the same measures of each."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from latentopt.errors import UsageError
from latentopt.evaluation.framework import Evaluation, evaluate
from latentopt.evaluation.measure import Measure
from latentopt.evaluation.subject import Amounts, LatentEdit
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import to_json, write_text
from latentopt.files.versions import package_version
from latentopt.protocols import Generator
from latentopt.recipe.files import recipe_files
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM
from latentopt.types import GeneratorInputs

EVALUATION_FILE = "compared.json"
AMOUNTS = Amounts(samples=32, paths=2, steps=3, partners=2, lec=2, corruption=200)
FIELDS = ("images", "measures", "curves", "about", "notes")


@dataclass(frozen=True)
class Compared:
    """One method: its recipe as run, its results in the images' order, what was measured of them."""

    name: str
    recipe: Recipe
    results: Sequence[Inversion]
    evaluation: Evaluation

    @property
    def measures(self) -> dict[str, Measure]:
        """The evaluation's, and the seconds of optimisation that an image took."""
        seconds = fmean(result.manifest["seconds"]["optimisation"] for result in self.results)
        cost = Measure("seconds", seconds, None, None, len(self.results), better="lower")  # batches share their time
        return {**self.evaluation.measures, "seconds": cost}


def load_recipes(names: Sequence[str], steps: int | None = None) -> dict[str, Recipe]:
    """Recipes by distinct names, shipped ones or TOML files; at most `steps` steps a stage.

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
        found[key] = recipe if steps is None else capped(recipe, steps)
    if not found:
        raise UsageError("no recipe to compare; name some with --recipes")
    return found


def capped(recipe: Recipe, steps: int) -> Recipe:
    """The same recipe with at most `steps` steps a stage. Raises UsageError for less than 1."""
    if steps < 1:
        raise UsageError(f"--steps {steps}: at least 1")
    return replace(recipe, stages=tuple(replace(s, steps=min(s.steps, steps)) for s in recipe.stages))


def check_recipe(recipe: Recipe, generator: Generator) -> None:
    """Raise, before any work, where the recipe needs an encoder or P-norm statistics that are not there."""
    recipe_files(recipe, generator)
    if recipe.looks_for("p-norm"):
        given_or_found(PNORM, generator)


def common(results: Mapping[str, Sequence[Inversion]]) -> dict[str, list[Inversion]]:
    """Those images alone that every method finished, in one order: means over different images would not compare."""
    names = [{result.name for result in found} for found in results.values()]
    shared = set.intersection(*names) if names else set()
    return {
        method: sorted((r for r in found if r.name in shared), key=lambda r: r.name)
        for method, found in results.items()
    }


def measured(
    results: Sequence[Inversion],
    generator: Generator,
    folder: Path | None = None,
    *,
    directions: Mapping[str, LatentEdit],
    amounts: Amounts = AMOUNTS,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Evaluation:
    """`evaluate`, kept in `folder` and not done again while results, directions and amounts are the same.

    options: those of `evaluate`. An evaluation with a judge of the user's is always made anew: their code may have changed.
    """
    asked = {"amounts": asdict(amounts), "seed": seed, "directions": _fingerprints(directions, generator)}
    asked |= {key: value for key, value in options.items() if key != "judge"}
    asked["version"] = package_version("latentopt")
    asked["results"] = [[result.name, result.manifest["key"], _digest(result)] for result in results]
    key = hashlib.sha256(to_json(asked).encode()).hexdigest()
    path = None if folder is None or options.get("judge") is not None else Path(folder) / EVALUATION_FILE
    if path is not None and (found := _read(path, key)) is not None:
        return found
    made = evaluate(
        results, generator, directions=directions, amounts=amounts, seed=seed, on_progress=on_progress, **options
    )
    if path is not None:
        with clear_write_errors(path):
            write_text(path, to_json({"key": key} | made.to_dict(), indent=1) + "\n")
    return made


def _read(path: Path, key: str) -> Evaluation | None:
    """What `measured` kept, or None where it is of something else or damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] != key:
            return None
        measures = {name: Measure(**_finite(entry)) for name, entry in stored["measures"].items()}
        return Evaluation(**{field: stored[field] for field in FIELDS} | {"measures": measures})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a value that is none was one."""
    return dict(entry) | ({"value": math.nan} if entry["value"] is None else {})


def _digest(result: Inversion) -> str:
    """Of the latents and of the changed weights: a dial's points share a manifest."""
    digest = hashlib.sha256(_bytes(result.inputs.ws))
    for name, delta in sorted((result.inputs.deltas or {}).items()):
        digest.update(name.encode() + _bytes(delta))
    return digest.hexdigest()[:16]


def _fingerprints(directions: Mapping[str, LatentEdit], generator: Generator) -> dict[str, str]:
    """What each edit does to the centre: two directions of one name may differ."""
    centre = GeneratorInputs(generator.broadcast(generator.w_avg[None]))
    return {
        name: hashlib.sha256(_bytes(edit.edit(centre, 1.0).ws)).hexdigest()[:16] for name, edit in directions.items()
    }


def _bytes(x: Tensor) -> bytes:
    return x.detach().float().cpu().contiguous().numpy().tobytes()
