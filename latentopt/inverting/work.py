"""`latentopt.invert`, `tune` and `encode`: the work on many images as one call, the summary included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.devices import Profile
from latentopt.encoders.changes import MeanChange
from latentopt.errors import UsageError
from latentopt.faces.aligner import NONE, Aligner
from latentopt.files.shards import Shard
from latentopt.inverting.encoding import BatchEncoder, StepMeans
from latentopt.inverting.encoding_recipe import encoding_of, encoding_recipe
from latentopt.inverting.engine import Engine, with_engine
from latentopt.inverting.events import Event, Finished
from latentopt.inverting.following import OnEvent, follow
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Look, Unread, items_of
from latentopt.inverting.outcome import Change
from latentopt.inverting.preparing import prepare
from latentopt.inverting.tuning import (
    common_recipe,
    inversion_item,
    recipe_of,
    renamed,
    tuning_items,
    tuning_recipe,
)
from latentopt.pictures.images import Alpha, Fit
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.results.earlier import EarlierResult, find_results
from latentopt.results.inversion import Inversion
from latentopt.watching.interruption import Interrupted, never

EXACT = {"exact": True}  # part of the key: results of batches are not those of single images

Images = Tensor | str | Path | Sequence[str | Path]
Results = str | Path | Sequence[Inversion] | Sequence[EarlierResult]


def invert(
    generator: Generator,
    images: Images,
    recipe: str | Path | Recipe = "ii2s",
    *,
    refine: object = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    mask: Tensor | None = None,
    fit: Fit = "crop",
    alpha: Alpha = "composite",
    look: Look | None = None,
    align: str | Aligner = NONE,
    out: str | Path | None = None,
    exact: bool = False,
    overwrite: bool = False,
    options: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    interrupted: Interrupted = never,
    keep: bool = True,
    profile: Profile | None = None,
    shard: Shard | None = None,
    engine: Engine | None = None,
) -> list[Inversion]:
    """Find latents of `images` for `generator` with a recipe.

    images: [B,C,H,W] in [-1,1] of the generator's size, or files, folders and globs, which are read, cropped and
    resized. recipe: a shipped one's name, a TOML file, or a Recipe. refine: a refiner as the recipe's last stage, as
    for `encode`. seed: an image's result depends on it and on its
    name alone, not on the others: up to rounding, which a batch of another size does differently (measured in
    docs/reliability.md), and to the bit where `exact` works on one image at a time. names: of the results; mask:
    [B,1,H,W], 1 where it counts (tensors only). fit, alpha: how files are made to fit (`latentopt.read_image`); look:
    called with each picture that is read and its source, it returns the picture, with further notes perhaps (the
    preflight is one). align: "faces" or "box:X,Y,SIZE" is cut out of each file first, an `Aligner` says more; several
    faces of a file become NAME-1, NAME-2, ..., and results remember where they were (`latentopt.api.paste` puts them
    back). out: a folder for results and their summary; given one, an interrupted call goes on where it was
    when repeated, and `overwrite` does finished images again. options: whatever else decides a result, so that it is
    part of its key. on_event: called with Progressed, Finished and Failed records; interrupted: asked after each step,
    True saves and raises KeyboardInterrupt. keep: False returns nothing, for more images than memory holds. profile:
    takes down where the time goes. shard: only part i of N of the images, (i, N), told by a hash of their names.
    engine: who does the work, in place of this process (`latentopt.Workers`, `latentopt.OnRay`); it needs `out`.

    Statistics that the recipe reads, and that the generator has not yet, are measured first (`prepare`).

    Returns one Inversion per image, in order. Raises UsageError for what cannot be meant; InversionFailed, once all
    images had their turn, when some could not be read or inverted: its `results` holds the others by name.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))
    recipe = recipe if refine is None else recipe.refined(refine)
    folder = None if out is None else Path(out)
    folders = [] if folder is None else [folder]
    items = items_of(generator, images, names, mask, fit, alpha, look, folders, overwrite, aligner_of(align), shard)
    recipe, decides = (recipe.alone(), dict(options or {}) | EXACT) if exact else (recipe, dict(options or {}))
    profile = profile or Profile(on=False)
    with profile.part("networks and start"):
        prepare(recipe, generator)
    inverter = Inverter(generator, recipe, seed, folder, tuple(decides.items()), profile=profile)
    call = with_engine(engine, inverter, inverter.invert)
    planned = shard is not None or engine is not None
    return follow(call, items, folder, overwrite, on_event, interrupted, keep, profile=profile, planned=planned)


def tune(
    generator: Generator,
    results: Results,
    method: str | Path | Recipe = "wrangan",
    *,
    seed: int = 0,
    shared: bool = False,
    out: str | Path | None = None,
    as_is: bool = False,
    exact: bool = False,
    change: Change | None = None,
    overwrite: bool = False,
    options: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    interrupted: Interrupted = never,
    keep: bool = True,
    shard: Shard | None = None,
    engine: Engine | None = None,
) -> list[Inversion]:
    """Change the generator's weights so that it draws inverted images better.

    results: what `invert` returned, or the folder of a run. method: a recipe that tunes weights (pti, weights,
    wrangan, ...); its stages from the first such on are run, each image starting from its earlier result, in the space
    of that. shared: one change of the weights for all images together. as_is: the method is ready (`tuning_recipe`
    made it), and every stage is run as it stands. change: measures what tuning did to the rest of the generator
    (`Inverter.change`). The others are as for `invert`.

    Returns one Inversion per image; `inputs.deltas` holds what was added to the weights, `delta()` as a file's
    contents. Raises UsageError, CheckpointError for results of another generator or of several recipes, and
    InversionFailed.
    """
    method = method if isinstance(method, Recipe) else Recipe.load(str(method))
    earlier, items = _starts(generator, results, shard)
    recipe = method if as_is else tuning_recipe(method, earlier)
    if shared and (shard is not None or engine is not None):
        raise UsageError("one change for all images together has no parts: leave the shard and the workers out")
    recipe = recipe.sharing(len(items)) if shared else recipe
    folder = None if out is None else Path(out)
    items = items if folder is None else renamed(items, folder)
    recipe, decides = (recipe.alone(), dict(options or {}) | EXACT) if exact else (recipe, dict(options or {}))
    prepare(recipe, generator)
    inverter = Inverter(generator, recipe, seed, folder, tuple(decides.items()), change=change)
    call = with_engine(engine, inverter, inverter.invert)
    planned = shard is not None or engine is not None
    return follow(call, items, folder, overwrite, on_event, interrupted, keep, planned=planned)


def _starts(generator: Generator, results: Results, shard: Shard | None) -> tuple[Recipe, Sequence[Item | Unread]]:
    """The recipe that found the results, and the images that start from them. Raises CheckpointError, UsageError."""
    found = find_results(Path(results), shard) if isinstance(results, str | Path) else list(results)
    earlier = [result for result in found if isinstance(result, EarlierResult)]
    inversions = [result for result in found if isinstance(result, Inversion)]
    if earlier and inversions:
        raise UsageError("results are those of a folder or those of a call, not both in one list")
    if earlier:
        return common_recipe(earlier), tuning_items(earlier, generator)
    for inversion in inversions:
        inversion.check_generator(generator)
    return recipe_of(inversions), [inversion_item(inversion) for inversion in inversions]


def encode(
    generator: Generator,
    images: Images,
    encoder: str | Path | Recipe = "e4e",
    *,
    refine: object = None,
    terms: Sequence[Mapping[str, object]] | None = None,
    names: Sequence[str] | None = None,
    fit: Fit = "crop",
    look: Look | None = None,
    align: str | Aligner = NONE,
    out: str | Path | None = None,
    batch: int = 8,
    keep_steps: bool = False,
    heat_maps: bool = False,
    overwrite: bool = False,
    options: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    interrupted: Interrupted = never,
    on_note: Callable[[str], object] = lambda text: None,
    keep: bool = True,
    shard: Shard | None = None,
    engine: Engine | None = None,
    **start: Any,
) -> list[Inversion]:
    """Find latents of `images` by an encoder, without optimisation.

    encoder: psp, e4e, restyle-psp, restyle-e4e for the bundled one of the generator, or a file; or a recipe that
    `encoding_recipe` made, which says the rest too. start: options of the initialiser `encoder` (steps, stage,
    bootstrap, bootstrap_network, mix, share, force). refine: a refiner's name, or its table as in a recipe: it adds to
    the generator's features what the codes lack. terms: what is measured.
    keep_steps: also every step's picture and codes; heat_maps: what each step changed, drawn for each image and as a
    mean. batch: images at once. on_note: called with what there is to say of the encoder's file. The others are as for
    `invert`, and so are what is returned and raised.
    """
    recipe = encoder if isinstance(encoder, Recipe) else encoding_recipe(encoder, terms, start, refine=refine)
    folder = None if out is None else Path(out)
    folders = [] if folder is None else [folder]
    items = items_of(
        generator, images, names, None, fit, "composite", look, folders, overwrite, aligner_of(align), shard
    )
    if heat_maps and engine is not None:
        raise UsageError("heat maps are gathered in one process: leave them out, or the workers")
    gathered = MeanChange() if heat_maps else None
    given = tuple((options or {}).items())
    encoding = encoding_of(recipe, generator)
    for note in encoding.encoder.notes:
        on_note(note)
    batches = BatchEncoder(encoding, recipe, folder, batch, keep_steps, gathered, given)
    means = StepMeans()

    def follow_history(event: Event) -> None:
        if isinstance(event, Finished):
            means.add(event.inversion.history)
        if on_event is not None:
            on_event(event)

    def write() -> None:
        if folder is not None:
            means.write(folder / "steps.csv")
        if folder is not None and gathered is not None and gathered.count:
            gathered.draw(folder / "heat-maps.png")

    call = with_engine(engine, batches, batches.encode)
    planned = shard is not None or engine is not None
    return follow(call, items, folder, overwrite, follow_history, interrupted, keep, after=write, planned=planned)


def aligner_of(align: str | Aligner) -> Aligner:
    """What was named, or is one already. Raises UsageError for another word."""
    return align if isinstance(align, Aligner) else Aligner(align)
