"""Latent editing consistency (Tov et al. 2021, e4e, equation 8): edited, inverted again as before, edited back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentopt.editing.files import DIRECTIONS
from latentopt.errors import UsageError
from latentopt.evaluation.measure import Measure, jackknife_interval, measure_mean
from latentopt.evaluation.subject import Found, LatentEdit, Subject
from latentopt.inverting.events import Finished
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import tensor_items
from latentopt.judge.protocol import plain
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.results.redrawing import Redraw
from latentopt.types import GeneratorInputs

Invert = Callable[[Tensor, Sequence[int]], Tensor]
"""E of equation 8: pictures [M,3,H,W] and which images they are edits of -> latents [M,L,C] that an inversion finds."""

TRIM_BATCH, TRIM = 8, 0.01  # of e4e's released code
STRENGTH = 1.0  # of the edit, in standard deviations


def consistency(subject: Subject) -> Found:
    """LEC (e4e, equation 8) of the first images, over all of ws, and as e4e's released code trims it.

    E is the recipe that the results were made by, run again with the same seeds. The edit is the pose direction, else
    the first one, by one standard deviation.
    """
    count = min(subject.amounts.lec, len(subject.results))
    if not count:
        return Found()
    if not subject.directions:
        run = DIRECTIONS.to_make(subject.generator)
        return Found(notes=[f"lec: left out, this generator has no directions; run {run}"])
    pose = next((name for name in subject.directions if plain(name) == plain(subject.pose)), None)
    name = next(iter(subject.directions)) if pose is None else pose
    edit = subject.directions[name]
    try:
        invert = subject.invert or by_recipe(subject)
    except UsageError as error:
        return Found(notes=[f"lec: left out, {error}"])
    distances = _by_noise_mode(subject, count, edit, invert)
    rows: list[dict[str, Any]] = [{} for _ in subject.results]
    for row, value in zip(rows, distances.tolist(), strict=False):
        row["lec"] = value
    extractor = f"{name} {STRENGTH:+g}"
    distances = distances[~distances.isnan()]
    if not len(distances):
        return Found(notes=["lec: none of the edited pictures could be inverted again"])
    value, n = trimmed_lec(distances), len(distances)
    low, high = jackknife_interval(value, n, lambda kept: trimmed_lec(distances[kept]), bounds=(0, math.inf))
    trimmed = Measure("lec_trimmed", value, low, high, n, extractor, "lower")
    return Found(
        [measure_mean("lec", distances, extractor=extractor, better="lower", seed=subject.seed), trimmed], rows
    )


def _by_noise_mode(subject: Subject, count: int, edit: LatentEdit, invert: Invert) -> Tensor:
    found = torch.full((count,), torch.nan, dtype=torch.float64)
    modes = [subject.noise_mode(i) for i in range(count)]
    for mode in sorted(set(modes)):
        rows = [i for i in range(count) if modes[i] == mode]
        redraws = [subject.redraws[i] for i in rows]

        def chosen(pictures: Tensor, which: Sequence[int], rows: Sequence[int] = rows) -> Tensor:
            return invert(pictures, [rows[k] for k in which])

        found[rows] = editing_distances(subject.generator, redraws, edit, STRENGTH, chosen, mode)
    return found


def by_recipe(subject: Subject) -> Invert:
    """The inversion that the results came from. Raises UsageError for several recipes or seeds, or one half known."""
    runs = [_runs(result) for result in subject.results]
    if len({tuple(record["recipe"]["digest"] for record, _ in run) for run in runs}) > 1:
        raise UsageError("the results were made by several recipes; evaluate those of one")
    seeds = {run[0][0]["seed"] for run in runs}
    if len(seeds) > 1:
        raise UsageError("the results were made with several seeds; evaluate those of one")
    recipe = latent_stages(_joined([toml for _, toml in runs[0]]))
    inverter = Inverter(subject.generator, recipe, seeds.pop())

    def invert(pictures: Tensor, rows: Sequence[int]) -> Tensor:
        # an image's seed comes from the name that it was inverted by, which several folders may have
        names = [str(subject.results[i].manifest.get("name", subject.results[i].name)) for i in rows]
        found = torch.full((len(rows), *subject.ws.shape[1:]), torch.nan)
        for part in _distinct(names):
            for event in inverter.invert(tensor_items(pictures[part], [names[k] for k in part])):
                if isinstance(event, Finished):
                    k = next(k for k in part if names[k] == event.inversion.name)
                    found[k] = event.inversion.inputs.ws[0].to(found)
        return found

    return invert


def _distinct(names: Sequence[str]) -> list[list[int]]:
    """Positions in as few groups as hold no name twice."""
    groups: list[list[int]] = []
    for k, name in enumerate(names):
        free = next((group for group in groups if all(names[j] != name for j in group)), None)
        if free is None:
            groups.append([k])
        else:
            free.append(k)
    return groups


def _runs(result: Inversion) -> list[tuple[Mapping[str, Any], str]]:
    """The runs that a result went through, each with its recipe as TOML: a tuning after its inversion."""
    earlier = result.manifest.get("tuned_from") or {}
    known = earlier.keys() >= {"recipe", "seed", "recipe_toml"}
    first = [(earlier, earlier["recipe_toml"])] if known else []
    return [*first, (result.manifest, result.recipe_toml)]


def _joined(tomls: Sequence[str]) -> Recipe:
    """One recipe of all their stages; those of a tuning go on from where the inversion ends."""
    recipes = [Recipe.parse(toml) for toml in tomls]
    return replace(recipes[0], stages=tuple(stage for recipe in recipes for stage in recipe.stages))


def latent_stages(recipe: Recipe) -> Recipe:
    """The stages up to the last that writes latents. Those after it tune weights or noise."""
    if recipe.needs_start:
        raise UsageError(
            f"recipe {recipe.name!r} goes on from an earlier result; evaluate the run that it was tuned from"
        )
    codes = ("ws", "styles", "residuals")
    writes = [k for k, stage in enumerate(recipe.stages) if any(map(stage.spaces, codes))]
    return replace(recipe, stages=recipe.stages[: max(writes, default=0) + 1])


def editing_distances(
    generator: Generator,
    images: Sequence[GeneratorInputs | Redraw],
    edit: LatentEdit,
    strength: float,
    invert: Invert,
    noise_mode: str = "const",
) -> Tensor:
    """||E(x) - f^-1(E(G(f(E(x)))))||_2 of each image [M], over all L x C entries of ws: equation 8 before the mean.

    images: E(x), one image's each, or how edits of it are drawn. G draws with the image's own noise and weights; the
    pictures are given to `invert` as they are, neither clamped nor rounded. f^-1 is the edit of the opposite strength.
    """
    redraws = [one if isinstance(one, Redraw) else Redraw(one) for one in images]
    with torch.no_grad():
        drawn = (redraw(edit.edit(redraw.base, strength)) for redraw in redraws)
        pictures = [generator.synthesis(inputs, noise_mode).float() for inputs in drawn]
    again = invert(torch.cat(pictures), range(len(redraws)))  # [M,L,C]
    found = []
    for one, ws in zip((redraw.base for redraw in redraws), again, strict=True):
        back = edit.edit(one.with_latents(ws[None].to(one.ws)), -strength)
        found.append((one.ws.cpu().double() - back.ws.cpu().double()).norm())  # Apple's GPUs have no float64
    return torch.stack(found)


def lec(distances: Tensor) -> float:
    """Equation 8: the mean of `editing_distance` over images [N]."""
    return distances.double().mean().item()


def trimmed_lec(distances: Tensor, batch: int = TRIM_BATCH) -> float:
    """As e4e's released code has it: means of batches of 8 images, without those outside their 1st to 99th percentile.

    The percentiles are interpolated, so that of a few batches the lowest and the highest are always dropped; of one
    or two batches nothing is.
    """
    means = torch.stack([part.mean() for part in distances.double().split(batch)])
    low, high = torch.quantile(means, torch.tensor([TRIM, 1 - TRIM], dtype=torch.float64))
    kept = means[(means >= low) & (means <= high)]
    return (kept if len(kept) else means).mean().item()
