"""`latentopt.restore`: pictures of which only a measurement is known, by any recipe. B images, C channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from torch import Tensor

from latentopt.errors import InversionFailed, UsageError
from latentopt.files.shards import Shard
from latentopt.inverting.events import Event, Finished
from latentopt.inverting.following import OnEvent, follow
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread
from latentopt.inverting.preparing import prepare
from latentopt.inverting.work import EXACT
from latentopt.loop.building import wants_masks
from latentopt.loop.chain import Chain
from latentopt.operators.call import Function
from latentopt.operators.mask import Mask
from latentopt.pictures.images import Fit
from latentopt.protocols import Generator, Operator
from latentopt.recipe.placement import START as PLACEMENT
from latentopt.recipe.recipe import Recipe
from latentopt.registry import TERMS
from latentopt.restoring.measuring import Exact, Measuring, is_picture, items_of
from latentopt.restoring.restoration import Restoration, Restorations, further_names, solution_name
from latentopt.watching.interruption import Interrupted, never

TITLE = "latentopt restorations"
START = {"name": "sample", "psi": 0.7}  # of further solutions


def restore(
    generator: Generator,
    images: Tensor | str | Path | Sequence[str | Path],
    operator: str | Mapping | Sequence | Operator | Callable[[Tensor], Tensor] | None = None,
    recipe: str | Path | Recipe = "robust",
    *,
    simulate: bool = False,
    solutions: int = 1,
    seed: int = 0,
    names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    fit: Fit | Exact = "exact",
    out: str | Path | None = None,
    exact: bool = False,
    overwrite: bool = False,
    options: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    interrupted: Interrupted = never,
    keep: bool = True,
    shard: Shard | None = None,
) -> list[Restoration]:
    """Find pictures of `generator` whose measurements are `images`.

    images: measurements [B,...], those that `operator` makes of the generator's pictures in [-1,1]; or files, folders
    and globs of pictures of that size. operator: text such as "down:8,jpeg:12", a table or a list of them as in recipes
    (docs/restore.md), or any function of images [B,C,H,W] that is differentiable; None is the recipe's own. recipe: any
    that inverts. simulate: `images` are good pictures, which are measured first; the results are compared with them.
    solutions: how many to look for from different starts; the first is what is found with one. mask: [B or 1,1,H,W] of
    the generator's size, 1 where the pictures were seen (tensors only); it goes where operators name a mask without a
    file, else before all of them. fit: "exact" takes files
    of the very size of a measurement only, the others make them fit. The rest is as for `latentopt.invert`.

    Returns one Restoration per image, in order. Raises UsageError for what cannot be meant, InversionFailed as
    `latentopt.invert` does.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))
    given = _as_operator(operator)
    if given is None and operator is not None:
        recipe = recipe.measuring(operator)
    if mask is not None:
        recipe, given = _behind_masks(generator, recipe, given)
    if recipe.needs_start:
        raise UsageError(f"recipe {recipe.name!r} goes on from an earlier result; a restoration begins with none")
    if not isinstance(solutions, int) or solutions < 1:
        raise UsageError(f"solutions is a whole number, at least 1, not {solutions}")
    measuring = Measuring(generator, recipe.stages[0].operators, given)
    check_terms(recipe, measuring)
    folder = None if out is None else Path(out)
    items = items_of(
        measuring, images, names, seed, simulate, fit, folder, mask, shard, partial(further_names, solutions=solutions)
    )
    decides = dict(options or {}) | {"simulate": simulate}
    decides |= {} if given is None else {"operator": [measuring.name, measuring.digest()]}
    recipe, decides = (recipe.alone(), decides | EXACT) if exact else (recipe, decides)
    prepare(recipe, generator, given)
    results = Restorations(measuring, folder, items, solutions, keep)
    groups = [(recipe, items), *further_solutions(recipe, items, solutions)]

    def inverted(recipe: Recipe, group: Sequence[Item | Unread], interrupted: Interrupted) -> Iterable[Event]:
        settings = (seed, folder, tuple(decides.items()))
        return Inverter(generator, recipe, *settings, operator=given, figures=results.figures).invert(
            group, interrupted
        )

    def events(_: Sequence[Item | Unread], interrupted: Interrupted) -> Iterable[Event]:
        return chain.from_iterable(inverted(*group, interrupted) for group in groups)

    def tell(event: Event) -> None:
        if isinstance(event, Finished):
            results.add(event)
        if on_event is not None:
            on_event(event)

    try:
        waiting = [item for _, group in groups for item in group]
        planned, after = shard is not None, results.write_spread
        follow(events, waiting, folder, overwrite, tell, interrupted, False, TITLE, after, planned=planned)
    except InversionFailed as error:
        found = {name: results.made(name) for name in results.found if name in results.items}
        raise InversionFailed(str(error), found) from error
    return [results.made(item.name) for item in items] if keep else []


def _as_operator(operator: object) -> Operator | None:
    """What was given as it is, rather than written; None for that."""
    if operator is None or isinstance(operator, str | Mapping | Sequence):
        return None
    if isinstance(operator, Operator):
        return operator
    if callable(operator):
        return Function(operator)
    raise UsageError(f"an operator is text, a table, or a function of images, not {type(operator).__name__}")


def _behind_masks(generator: Generator, recipe: Recipe, given: Operator | None) -> tuple[Recipe, Operator | None]:
    """The recipe, or the operator that was given, with a mask of each image: where one is named, else before all."""
    if given is not None:
        known = Measuring(generator, (), given).parts
        return recipe, given if any(map(wants_masks, known)) else Chain([Mask(generator), *known])
    tables = recipe.stages[0].operators
    if tables and any(map(wants_masks, Measuring(generator, tables).parts)):
        return recipe, None
    return recipe.measuring([{"name": "mask"}, *tables]), None


def check_terms(recipe: Recipe, measuring: Measuring) -> None:
    """Raise UsageError where a term compares pictures and the measurements are none."""
    shape = measuring.shape()
    if is_picture(shape):
        return
    seeing = [p["name"] for s in recipe.stages for p in s.terms if "net" in TERMS.options(p["name"])]
    if seeing:
        raise UsageError(
            f"recipe {recipe.name!r} compares pictures by {seeing[0]}, and what {measuring.name} measures is none "
            f"({list(shape)}): take other terms, --terms l2 (in Python: Recipe.in_every_stage(terms=[...]))"
        )


def further_solutions(
    recipe: Recipe, items: Sequence[Item | Unread], solutions: int
) -> list[tuple[Recipe, list[Item | Unread]]]:
    """Which recipe finds the solutions after the first: from samples of the generator. One that begins by looking for
    where the picture lies looks again, by other samples.
    """
    first = recipe.stages[0]
    named = [[replace(i, name=solution_name(i.name, k)) for i in items] for k in range(2, solutions + 1)]
    if first.init["name"] != PLACEMENT:
        together = [item for of_one in zip(*named, strict=True) for item in of_one]
        return [(_beginning(recipe, START), together)] if named else []
    seed = first.init.get("seed", 0)
    return [(_beginning(recipe, first.init | {"seed": seed + k}), group) for k, group in enumerate(named, start=1)]


def _beginning(recipe: Recipe, init: dict) -> Recipe:
    return replace(recipe, stages=(replace(recipe.stages[0], init=init), *recipe.stages[1:]))
