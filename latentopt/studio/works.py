"""What the jobs do that optimise: the calls of `latentopt.api` that the commands make, and the folders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.api import PictureCheck, Recipe, find_results, invert, restore, tune, tuning_recipe
from latentopt.editing.latents import file_name
from latentopt.errors import UsageError
from latentopt.preflight.picture_check import Work
from latentopt.recipe.entries import terms_of
from latentopt.studio.messages import Invert, Refine, Restore, Tune
from latentopt.studio.places import picture_path

if TYPE_CHECKING:
    from latentopt.inverting.items import Look
    from latentopt.pictures.images import Fit
    from latentopt.studio.jobs import Watch
    from latentopt.studio.session import Session

Made = dict[str, Any]
Run = Callable[["Watch"], Made]


def steps_of(recipe: Recipe) -> int:
    """The measurements of all stages: each has one more than updates."""
    return sum(stage.steps + 1 for stage in recipe.stages)


def shipped(name: str) -> Recipe:
    """A recipe by its name: pages name no files. Raises UsageError."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"{name[:80]!r}: not the name of a recipe")
    return Recipe.load(name)


def _changed(recipe: Recipe, asked: Invert | Tune | Restore) -> tuple[Recipe, list[str]]:
    """The recipe with the steps and terms that are asked for, and these in words."""
    found = recipe.in_every_stage(steps=asked.steps, terms=terms_of(asked.terms))
    words = [] if asked.steps is None else [f"{asked.steps} steps"]
    return found, [*words, *([asked.terms] if asked.terms else [])]


def reading(session: Session) -> dict[str, object]:
    """What the commands keep of how pictures are read and drawn."""
    return {"dtype": "float32", "network": session.generator.name}


def _made(session: Session, out: Path, watch: Watch) -> Made:
    """The one result that a job has finished."""
    if not watch.finished:
        raise UsageError("nothing was finished")
    return {"base": (out / watch.finished[-1]).relative_to(session.root).as_posix()}


# ---- inverting


def inversion(session: Session, asked: Invert) -> tuple[Run, int, str]:
    """What to run, how many steps it has, and its title. The folder is called after the recipe and what was changed."""
    recipe, changes = _changed(shipped(asked.recipe), asked)
    if asked.clip is not None:
        recipe = recipe.changed({("stages", 0, "optimize", 0, "clip"): asked.clip})
        changes.append(f"clip {asked.clip:g}")
    changes += [f"seed {asked.seed}"] * (asked.seed != 0) + [asked.fit] * (asked.fit != "crop")
    out = session.root / file_name("-".join([asked.recipe, *changes]))
    path, work = picture_path(session.root, asked.picture), Work(1, steps_of(recipe))
    title = f"{path.stem}: {', '.join([asked.recipe, *changes])}"

    def look(watch: Watch) -> Look:
        return PictureCheck(session.generator, work, lambda source, verdict: watch.say(verdict.short))

    run = partial(_invert, session, path, recipe, out, seed=asked.seed, fit=asked.fit, look=look)
    return run, steps_of(recipe), title


def _invert(
    session: Session,
    path: Path,
    recipe: Recipe,
    out: Path,
    watch: Watch,
    *,
    seed: int,
    fit: Fit,
    look: Callable[[Watch], Look] | None = None,
) -> Made:
    """As `latentopt invert`, with all that goes into a result's key."""
    invert(
        session.generator,
        [path],
        recipe,
        seed=seed,
        fit=fit,
        look=None if look is None else look(watch),
        out=out,
        options={"fit": fit, "alpha": "composite", **reading(session)},
        on_event=watch.on_event,
        interrupted=watch.interrupted,
        keep=False,
    )
    return _made(session, out, watch)


def refinement(session: Session, asked: Refine) -> tuple[Run, int, str]:
    """The result's latents as they are, and a stage that refines: recipe `encode` started from the result's file."""
    place = session.place(asked.result)
    earlier = find_results(place)[0]
    start = {"name": "file", "path": str(place / "inputs.safetensors")}
    recipe = Recipe.load("encode").changed({("stages", 0, "init"): start}).refined(asked.refiner)
    out, picture = place / f"refined-{asked.refiner}", Path(earlier.record["source"]["path"])
    fit = earlier.record.get("options", {}).get("fit", "crop")

    path = picture if picture.is_file() else place / "target.png"
    run = partial(_invert, session, path, recipe, out, seed=earlier.record["seed"], fit=fit)
    return run, steps_of(recipe), f"{earlier.name}: refined by {asked.refiner}"


# ---- tuning and restoring


def tuning(session: Session, asked: Tune) -> tuple[Run, int, str]:
    """As `latentopt tune RESULT --method METHOD`: into the result's own folder."""
    place = session.place(asked.result)
    earlier = find_results(place)
    if len(earlier) != 1:
        raise UsageError(f"{asked.result[:80]!r} holds {len(earlier)} results; choose one of them")
    recipe, changes = _changed(tuning_recipe(shipped(asked.method), earlier[0].recipe), asked)
    out = place / file_name("-".join([f"tuned-{asked.method}", *changes]))

    def run(watch: Watch) -> Made:
        tune(
            session.generator,
            earlier,
            recipe,
            as_is=True,
            out=out,
            options=reading(session),
            on_event=watch.on_event,
            interrupted=watch.interrupted,
            keep=False,
        )
        return _made(session, out, watch)

    return run, steps_of(recipe), f"{earlier[0].name}: tuned by {asked.method}"


def restoration(session: Session, asked: Restore) -> tuple[Run, int, str]:
    """As `latentopt restore PICTURE --operator OPERATOR`: into a folder that is called after both."""
    if "/" in asked.operator or "\\" in asked.operator:
        raise UsageError("an operator that reads a file is for latentopt restore; here, a transparent part is a mask")
    recipe, changes = _changed(shipped(asked.recipe).measuring(asked.operator), asked)
    if any(stage.code for stage in recipe.stages):
        raise UsageError("an operator of your own code is run by latentopt restore, not from a page")
    path = picture_path(session.root, asked.picture)
    out = session.root / file_name("-".join(["restored", asked.operator, asked.recipe, *changes]))

    def run(watch: Watch) -> Made:
        restore(
            session.generator,
            [path],
            None,
            recipe,
            simulate=asked.simulate,
            fit="exact",
            out=out,
            options=reading(session),
            on_event=watch.on_event,
            interrupted=watch.interrupted,
            keep=False,
        )
        return _made(session, out, watch)

    return run, steps_of(recipe), f"{path.stem}: restored from {asked.operator}"
