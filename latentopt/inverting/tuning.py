"""Tuning a generator to images that are inverted already: which results are meant, from where they go on, by which
recipe.

There is no loop here: a tuning is a recipe whose first stage starts from an earlier result, given to the Inverter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.errors import CheckpointError, UsageError
from latentopt.faces.alignment import from_record
from latentopt.faces.cutting import cut
from latentopt.inverting.items import Item, Start, Unread
from latentopt.inverting.names import Picture, free_names
from latentopt.pictures.decoding import Picture as DecodedPicture
from latentopt.pictures.images import DELTA_FILE, TargetImage, read_image, read_png
from latentopt.protocols import Generator
from latentopt.recipe.entries import checked_plugin
from latentopt.recipe.named_recipes import recipe_names
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import PREVIOUS, Stage
from latentopt.registry import PARAMETERIZATIONS
from latentopt.results.earlier import EarlierResult
from latentopt.results.inversion import Inversion, check_picture_known

ANY_WS = checked_plugin("w+", PARAMETERIZATIONS, "optimize")  # a space that holds every ws


def tuning_recipe(method: Recipe, earlier: Recipe) -> Recipe:
    """The stages of `method` that tune weights, starting from a result of `earlier`.

    Where they move the latents too, they do so in the space that the result was found in (its bounds included), at the
    method's own learning rate: the result's latents need not be of the space that the method was made for. Where none
    of its spaces moved ws, what it started with may have been any ws: they move in W+. Raises UsageError for a method
    that tunes nothing.
    """
    _, tuning = method.split()
    if tuning is None:
        known = [name for name in recipe_names() if Recipe.load(name).split()[1] is not None]
        raise UsageError(f"recipe {method.name!r} tunes no weights; those that do: {', '.join(known)}")
    space = next((part for stage in reversed(earlier.stages) for part in stage.spaces("ws")), ANY_WS)
    stages = [replace(stage, optimize=tuple(_in_space(stage, space))) for stage in tuning.stages]
    stages[0] = replace(stages[0], init={"name": PREVIOUS})
    return replace(tuning, stages=tuple(stages))


def common_recipe(results: Sequence[EarlierResult]) -> Recipe:
    """The recipe that all of them were made by. Raises UsageError where there are several, and for restorations."""
    records = {str(result.folder): result.record for result in results}
    for folder, record in records.items():
        check_picture_known(folder, record)
    by_recipe = {record["recipe"]["digest"]: folder for folder, record in records.items()}
    if len(by_recipe) > 1:
        folders = ", ".join(sorted(by_recipe.values()))
        raise UsageError(f"these results were made by different recipes ({folders}); tune those of one at a time")
    return results[0].recipe


def recipe_of(inversions: Sequence[Inversion]) -> Recipe:
    """The recipe that all of them were made by. Raises UsageError for none, several recipes, and restorations."""
    for inversion in inversions:
        check_picture_known(inversion.name, inversion.manifest)
    tables = {inversion.manifest["recipe"]["digest"]: inversion.recipe_toml for inversion in inversions}
    if len(tables) != 1:
        raise UsageError(f"results of one recipe are tuned at a time; these are of {len(tables)}")
    return Recipe.parse(next(iter(tables.values())), runs=True)  # of which the spaces are read


def _in_space(stage: Stage, space: Mapping[str, Any]) -> Iterator[dict]:
    latent = stage.spaces("ws")
    for part in stage.optimize:
        if part not in latent:
            yield part
        else:
            rate = {"lr": part["lr"]} if "lr" in part else {}
            yield {key: value for key, value in space.items() if key != "lr"} | rate


def sigma_layers(recipe: Recipe) -> str:
    """The layers that a recipe tunes in the space that reads a sigma."""
    looked_for = (reading.part for reading in recipe.reads if reading.kind == "sigma" and reading.named is None)
    return str(next(looked_for)["layers"])  # a checked recipe has every option


def tuning_items(results: Sequence[EarlierResult], generator: Generator) -> list[Unread]:
    """The images of earlier results, to be read when their turn comes.

    Raises CheckpointError at once where the first was made with another generator; later ones fail in their turn.
    """
    results[0].check_generator(generator)
    items = []
    for result in results:
        source = result.record["source"]
        target, start = partial(_target, result, generator), partial(_start, result, generator)
        items.append(Unread(result.name, str(source["path"]), target, start, sha256=source["sha256"]))
    return items


def renamed(items: Sequence[Item | Unread], folder: Path) -> list[Item | Unread]:
    """The images by names that no other picture's result has in `folder`."""
    hashes = [item.target.sha256 if isinstance(item, Item) else item.sha256 for item in items]
    pictures = [
        Picture(item.name, Path(item.source), partial(str, digest)) for item, digest in zip(items, hashes, strict=True)
    ]
    return [replace(item, name=name) for item, name in zip(items, free_names(pictures, [folder]), strict=True)]


def _target(result: EarlierResult, generator: Generator) -> TargetImage:
    """The picture that the inversion had. A masked one is read again from its file, which must be unchanged."""
    record = result.record
    source, options = record["source"], record.get("options", {})
    if options.get("alpha") == "mask":
        path, fit = Path(source["path"]), options.get("fit", "crop")
        square = _square(result.record, generator)
        target = read_image(
            path, generator.resolution, fit=fit, alpha="mask", channels=generator.img_channels, cut=square
        )
        target = replace(target, alignment=result.record.get("alignment"))
        if target.sha256 != source["sha256"]:
            raise CheckpointError(f"{source['path']}: has changed since it was inverted; invert it again")
        return target
    image = read_png(result.folder / "target.png")
    if tuple(image.shape) != (expected := (generator.img_channels, *generator.resolution)):
        raise CheckpointError(f"{result.folder / 'target.png'}: {list(image.shape)}, not {list(expected)}")
    return _known_target(image, result.record)


def _known_target(image: Tensor, record: Mapping[str, Any]) -> TargetImage:
    """The picture of an earlier result, as it was read then."""
    source = record["source"]
    about = (tuple(source["notes"]), source["sha256"], tuple(source["size"]))
    return TargetImage(image, None, *about, alignment=record.get("alignment"))


def _square(record: Mapping[str, Any], generator: Generator) -> Callable[[DecodedPicture], DecodedPicture] | None:
    """What an earlier result cut out of its photograph; None for nothing."""
    if "alignment" not in record:
        return None
    try:
        alignment = from_record(record["alignment"])
    except ValueError as error:
        raise CheckpointError(f"{record['source']['path']}: its alignment on record is damaged: {error}") from error
    return partial(cut, alignment=alignment, size=generator.resolution[0])


def _start(result: EarlierResult, generator: Generator) -> Start:
    result.check_generator(generator)
    inversion = Inversion.load(result.folder)
    inversion.check_generator(generator)
    files = [result.folder / name for name in ("inputs.safetensors", DELTA_FILE)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files if path.is_file())).hexdigest()
    about = tuned_from(result.record, inversion.recipe_toml, str(result.folder))
    return Start(inversion.base, digest, {"tuned_from": about})


def tuned_from(record: Mapping[str, Any], recipe_toml: str, folder: str = "") -> dict[str, Any]:
    """What a tuned result keeps of the inversion that it started from: its figures are the `before` of the tuning.

    Recipe and seed are kept whole, so that the inversion can be run again (for LEC) when its folder is gone.
    """
    kept = {key: record[key] for key in ("key", "recipe", "seed", "metrics", "seconds")}
    return {"folder": folder, **kept, "recipe_toml": recipe_toml}


def inversion_item(inversion: Inversion) -> Item:
    """An inversion that is at hand, to go on from."""
    target = _known_target(inversion.target, inversion.manifest)
    digest = hashlib.sha256(json.dumps([inversion.name, inversion.manifest["key"]]).encode())
    digest.update(inversion.inputs.ws.cpu().contiguous().numpy().tobytes())
    start = Start(
        inversion.base, digest.hexdigest(), {"tuned_from": tuned_from(inversion.manifest, inversion.recipe_toml)}
    )
    return Item(inversion.name, str(inversion.manifest["source"]["path"]), target, start)
