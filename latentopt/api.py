"""`latentopt.invert` and `latentopt.tune`: the work on many images as one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from latentopt.errors import InversionFailed, UsageError
from latentopt.evaluation.corruption import change_by
from latentopt.files.outputs import check_outdir, locked
from latentopt.inverting.events import Event, Failed, Finished
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread, tensor_items
from latentopt.inverting.tuning import (
    common_recipe,
    find_results,
    inversion_item,
    recipe_of,
    tuning_items,
    tuning_recipe,
)
from latentopt.pictures.images import find_images, read_image
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion


def invert(
    generator: Generator,
    images: Tensor | str | Path | Sequence[str | Path],
    recipe: str | Path | Recipe = "ii2s",
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Inversion]:
    """Find latents of `images` for `generator` with a recipe.

    images: [B,3,H,W] in [-1,1] of the generator's size, or files, folders and globs, which are read, cropped and resized.
    recipe: a shipped one's name, a TOML file, or a Recipe. seed: an image's result depends on it and on its name alone, not on
    the others (up to rounding). names: of the results; mask: [B,1,H,W], 1 where the image counts (tensors only).
    out: a folder for results; given one, an interrupted call goes on where it was when repeated. on_event: called with
    Progressed, Finished and Failed records.

    Returns one Inversion per image, in order. Raises UsageError for what cannot be meant; InversionFailed, once all images had
    their turn, when some could not be read or inverted: its `results` holds the others by name.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))
    items = _items(generator, images, names, mask)
    if len({item.name for item in items}) != len(items):
        raise UsageError("two images have the same name; pass distinct names=[...]")
    return _work(Inverter(generator, recipe, seed, None if out is None else Path(out)), items, on_event)


def tune(
    generator: Generator,
    results: str | Path | Sequence[Inversion],
    method: str | Path | Recipe = "wrangan",
    *,
    seed: int = 0,
    shared: bool = False,
    out: str | Path | None = None,
    corruption: int = 1000,
    on_event: Callable[[Event], None] | None = None,
) -> list[Inversion]:
    """Change the generator's weights so that it draws inverted images better.

    results: what `invert` returned, or the folder of a run. method: a recipe that tunes weights (pti, weights, wrangan, ...);
    its stages from the first such on are run, each image starting from its earlier result, in the space of that.
    shared: one change of the weights for all images together. corruption: how many pictures are drawn to measure what
    tuning did to the rest of the generator, 0 for none. The others are as for `invert`.

    Returns one Inversion per image; `inputs.deltas` holds what was added to the weights, `delta()` as a file's contents.
    Raises UsageError, CheckpointError for results of another generator or of several recipes, and InversionFailed.
    """
    method = method if isinstance(method, Recipe) else Recipe.load(str(method))
    if isinstance(results, str | Path):
        found = find_results(Path(results))
        earlier, items = common_recipe(found), tuning_items(found, generator)
    else:
        for inversion in results:
            inversion.check_generator(generator)
        earlier, items = recipe_of(results), [inversion_item(inversion) for inversion in results]
    recipe = tuning_recipe(method, earlier)
    recipe = recipe.sharing(len(items)) if shared else recipe
    folder = None if out is None else Path(out)
    return _work(Inverter(generator, recipe, seed, folder, change=change_by(corruption)), items, on_event)


def _work(
    inverter: Inverter, items: Sequence[Item | Unread], on_event: Callable[[Event], None] | None
) -> list[Inversion]:
    """The results in order. Raises InversionFailed once all had their turn."""
    folder = inverter.out
    if folder is not None:
        check_outdir(folder)
    found: dict[str, Inversion] = {}
    failed: list[Failed] = []
    with contextlib.nullcontext() if folder is None else locked(folder):
        for event in inverter.invert(items):
            if on_event is not None:
                on_event(event)
            if isinstance(event, Failed):
                failed.append(event)
            elif isinstance(event, Finished):
                found[event.inversion.name] = event.inversion
    if failed:
        reasons = "; ".join(f"{event.source}: {event.reason}" for event in failed[:5])
        raise InversionFailed(f"{len(failed)} of {len(items)} images failed: {reasons}", found)
    return [found[item.name] for item in items]


def _items(
    generator: Generator,
    images: Tensor | str | Path | Sequence[str | Path],
    names: Sequence[str] | None,
    mask: Tensor | None,
) -> list[Item | Unread]:
    if isinstance(images, Tensor):
        expected = (3, *generator.resolution)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise UsageError(
                f"images are {list(images.shape)}; this generator takes [B, {', '.join(map(str, expected))}]"
            )
        if names is not None and len(names) != len(images):
            raise UsageError(f"{len(names)} names for {len(images)} images")
        wanted = (len(images), 1, *generator.resolution)
        if mask is not None and tuple(mask.shape) != wanted:
            raise UsageError(f"mask is {list(mask.shape)}; these images take {list(wanted)}")
        return tensor_items(images, names, mask)
    if mask is not None:
        raise UsageError(
            "mask= goes with images given as a tensor; transparent pictures: latentopt invert --alpha mask"
        )
    sources = find_images([images] if isinstance(images, str | Path) else list(images))
    if names is not None and len(names) != len(sources):
        raise UsageError(f"{len(names)} names for {len(sources)} pictures")
    keys = [source.key for source in sources] if names is None else list(names)
    return [
        Unread(key, str(source.path), partial(read_image, source.path, generator.resolution))
        for key, source in zip(keys, sources, strict=True)
    ]
