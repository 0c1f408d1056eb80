"""What a space costs: how far results in it answer edits, and whether they can be edited again.

The results of whole recipes, with their own numbers of steps, on fresh portraits; kept in `work/benchmarks/spaces`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from inversions import Bench, with_measures
from tables import markdown_table

import latentopt
from latentopt.data.portraits import TEST_SEEDS
from latentopt.editing.files import find_directions
from latentopt.evaluation.framework import evaluate
from latentopt.evaluation.subject import Amounts
from latentopt.files.storage import write_text
from latentopt.inverting.events import Event, Progressed
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import with_space
from latentopt.results.inversion import Inversion

FOLDER = Path("work/benchmarks/spaces")
EDITS = ("yaw", "smile", "glasses", "beard", "hair_length")
PARTS = ("reconstruction", "latents", "attributes", "lec")
MEASURES = ("perceptual", "mse", "psnr", "seconds", "edit_response", "edit_drift", "lec", "radius")
RATIOS = ("perceptual", "mse", "seconds", "edit_response")
PUBLISHED = "Published (Cao et al. 2023): dhr has 0.54 of the LPIPS and 0.43 of the MSE of pti, in 0.2 of its time."


def recipes() -> dict[str, Recipe]:
    """Each space in the recipe that it is shipped with, and whole methods; pti without its early stop, as published."""
    i2s, in_pnorm, pti = (Recipe.load(name) for name in ("i2s", "ii2s-pnorm", "pti"))
    return {
        "w+": i2s,
        "s": with_space(i2s, "s", {}),
        "w++": with_space(i2s, "w++", {}),
        "z+": with_space(in_pnorm, "z+", {}),
        "f/w+": Recipe.load("bdinvert"),
        "robust": Recipe.load("robust"),
        "dhr": Recipe.load("dhr"),
        "pti": pti.changed({("stages", len(pti.stages) - 1, "stop"): None}),
        "wrangan": Recipe.load("wrangan"),
    }


def inverted(bench: Bench, name: str, recipe: Recipe) -> list[Inversion]:
    """Of the recipe on all portraits, as far as they are not there yet."""
    sized = replace(recipe, stages=tuple(replace(stage, batch=bench.batch) for stage in recipe.stages))
    folder = FOLDER / f"{name.replace('/', '-')}-{sized.digest}-{bench.generator.fingerprint[:8]}"
    steps = sum(stage.steps + 1 for stage in recipe.stages)

    def tell(event: Event) -> None:
        if isinstance(event, Progressed) and event.step.step % 100 == 0:
            print(f"{name}: {', '.join(event.batch.keys)}: step {event.step.step} of {steps}", flush=True)

    names = [str(seed) for seed in TEST_SEEDS[: bench.n]]
    return latentopt.invert(bench.generator, bench.targets, sized, names=names, out=folder, on_event=tell)


def price(bench: Bench, name: str, recipe: Recipe, lec: int) -> dict[str, float]:
    """Measures by name, kept beside the results."""
    results = inverted(bench, name, recipe)
    path = FOLDER / f"{name.replace('/', '-')}-{recipe.digest}-{bench.generator.fingerprint[:8]}-{bench.n}-{lec}.json"
    if not path.is_file():
        directions = {key: found for key, found in find_directions(bench.generator).items() if key in EDITS}
        found = evaluate(
            results, bench.generator, directions=directions, parts=PARTS, amounts=Amounts(samples=64, lec=lec)
        )
        seconds = [result.manifest["seconds"]["optimisation"] for result in results]
        values = {key: asdict(measure)["value"] for key, measure in found.measures.items()}
        write_text(path, json.dumps(values | {"seconds": torch.tensor(seconds).mean().item()}))
    return json.loads(path.read_text())


def price_tables(bench: Bench, lec: int, chosen: Mapping[str, Recipe] | None = None) -> str:
    """Every measure of every method, and how it stands to pti."""
    found = {
        name: price(bench, name, with_measures(recipe, None), lec) for name, recipe in (chosen or recipes()).items()
    }
    rows = [[name, *(values.get(key) for key in MEASURES)] for name, values in found.items()]
    text = markdown_table(["method", *(key.replace("_", " ") for key in MEASURES)], rows)
    if "pti" not in found:
        return text
    ratios = [
        [name, *(values[key] / found["pti"][key] if key in values else None for key in RATIOS)]
        for name, values in found.items()
    ]
    headings = ["method", *(f"{key.replace('_', ' ')} / pti" for key in RATIOS)]
    return f"{text}\n\n{markdown_table(headings, ratios)}\n\n{PUBLISHED}\n\n{MEANING}"


MEANING = (
    "edit response: how far the judge reads five edits in the result, in units of what it reads in the generator's own "
    "samples; edit drift: how far the other attributes move meanwhile; lec: the distance of ws after editing, drawing, "
    "inverting and editing back; for s and w++, whose codes are not in ws, it is that of ws alone. seconds: of the "
    "steps, wall clock an image."
)
