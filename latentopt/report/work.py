"""`latentopt.api.compare`: methods on the same images, measured alike, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentopt.editing.direction import Direction
from latentopt.editing.files import find_directions
from latentopt.editing.sequence import Edit, choose, parse_edit
from latentopt.evaluation.comparison import SILENT, Callbacks, Comparison
from latentopt.evaluation.dial import find_dial
from latentopt.evaluation.framework import Asked, picture_distances
from latentopt.evaluation.methods import load_recipes, with_steps
from latentopt.files.outputs import check_inside, workplace
from latentopt.inverting.items import Look, items_of
from latentopt.inverting.names import OWN_FILES, check_names
from latentopt.inverting.work import Images
from latentopt.judge.protocol import AttributeJudge
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.report.comparison_files import FIGURES, PAGE, settings_of, write_comparison

DIAL_STEPS = 200  # a stage of a dial's recipes, at most


def compare(
    generator: Generator,
    images: Images,
    recipes: Sequence[str | Path] | Mapping[str, Recipe],
    *,
    out: str | Path,
    seed: int = 0,
    names: Sequence[str] | None = None,
    look: Look | None = None,
    steps: int | None = None,
    dials: Sequence[str] = (),
    edits: Sequence[str | Edit] = (),
    directions: Mapping[str, Direction] | None = None,
    judge: AttributeJudge | None = None,
    pose: str = "yaw",
    metrics: Sequence[str] = ("perceptual",),
    lec: int = 2,
    dtype: str = "float32",
    optional: bool = False,
    settings: Sequence[tuple[str, str]] = (),
    callbacks: Callbacks = SILENT,
) -> Comparison:
    """Run recipes on the same images and seeds, measure all results alike, write `report.html` and `comparison.json`.

    images, seed, names, look: as for `invert`. recipes: shipped ones' names or TOML files, or recipes by the names
    that methods are to have. out: the folder of everything; an interrupted call goes on where it was when repeated.
    steps: so many in every stage. dials: settings to sweep, of `clip`, `penalty` and `w-to-w+`. edits: of the
    strips, such as "smile=+2", along `directions`, by default those at hand for the generator. judge, pose, metrics:
    as for `evaluate`; lec: images that are inverted again. dtype: what the generator's precision is called on the
    page. optional: recipes that lack a file are left out with a note. settings: further (name, value) pairs for the
    page. callbacks: how the work is watched.

    Returns the comparison: `compared` holds each method's results and measures, `notes` what went wrong. Raises
    UsageError for what cannot be meant, before any work; MissingWeightsError and StatisticsError for recipes that
    lack a file; LatentoptError where no image was finished by every method.
    """
    methods = dict(recipes) if isinstance(recipes, Mapping) else load_recipes([str(recipe) for recipe in recipes])
    check_names(list(methods), [*OWN_FILES, PAGE, FIGURES])
    methods = {name: with_steps(recipe, steps) for name, recipe in methods.items()}
    turned = [find_dial(kind)(generator) for kind in dict.fromkeys(dials)]
    shown = [parse_edit(edit) if isinstance(edit, str) else edit for edit in edits]
    known = find_directions(generator) if directions is None else directions
    for edit in shown:
        choose(edit.name, known)
    picture_distances(metrics, generator)  # their weights are had before the work begins
    asked: Asked = {"judge": judge, "pose": pose, "metrics": tuple(dict.fromkeys(metrics))}
    with workplace(Path(out)) as folder:
        check_inside(folder, [*methods, *(f"dial-{dial.name}" for dial in turned)])
        comparison = Comparison(generator, folder, seed, dtype, known, asked, callbacks)
        methods = comparison.runnable(methods, optional)
        items = comparison.read(
            items_of(generator, images, names, look=look, folders=[folder / name for name in methods])
        )
        comparison.compare(methods, items, lec)
        for dial in turned:
            comparison.sweep(dial, items, min(steps or DIAL_STEPS, DIAL_STEPS))
        write_comparison(comparison, shown, [*settings, *settings_of(comparison, steps, lec)])
    return comparison
