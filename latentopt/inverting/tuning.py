"""Tuning a generator to images that are inverted already: which results are meant, from where they go on, by which recipe.

There is no loop here: a tuning is a recipe whose first stage starts from an earlier result, given to the Inverter.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from latentopt.errors import CheckpointError, UsageError
from latentopt.inverting.items import Item, Start, Unread
from latentopt.pictures.images import DELTA_FILE, TargetImage, read_image, read_png
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe, recipe_names
from latentopt.recipe.stage import PREVIOUS, Stage
from latentopt.results.inversion import Inversion, read_run


@dataclass(frozen=True)
class EarlierResult:
    """A finished inversion on disk: its folder, its name below the run's folder, and its run.json."""

    folder: Path
    name: str
    record: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(str(self.folder / "recipe.toml"))


def find_results(folder: Path) -> list[EarlierResult]:
    """The finished inversions in or below `folder`, by name; tuned ones only where there are no others.

    Raises CheckpointError where there is none.
    """
    folder = Path(folder)
    found = [_result(path.parent, folder) for path in sorted(folder.rglob("run.json"))]
    plain = [result for result in found if not result.record.get("tuned")]
    if not found:
        raise CheckpointError(f"{folder}: no finished inversion there; run latentopt invert first")
    return plain or found


def newest_run(outdir: Path) -> list[EarlierResult]:
    """The results of the newest run in or below the output folder: those that share the newest one's summary.csv.

    Results of a tuning do not count. Raises CheckpointError where there is none.
    """
    outdir = Path(outdir)
    runs: dict[Path, list[EarlierResult]] = {}
    for result in find_results(outdir):
        if not result.record.get("tuned"):
            runs.setdefault(_root(result.folder, outdir), []).append(result)
    if not runs:
        raise CheckpointError(
            f"{outdir}: nothing but tuned results there; run latentopt invert first, or name a folder"
        )
    root = max(runs, key=lambda folder: max((r.folder / "run.json").stat().st_mtime_ns for r in runs[folder]))
    return [replace(result, name=_name(result.folder, root)) for result in runs[root]]


def _root(folder: Path, outdir: Path) -> Path:
    """The folder of the run that a result belongs to: the nearest one above it with a summary, else the output folder."""
    above = folder.parents if folder != outdir else ()
    return next((f for f in above if f.is_relative_to(outdir) and (f / "summary.csv").is_file()), outdir)


def _result(folder: Path, root: Path) -> EarlierResult:
    return EarlierResult(folder, _name(folder, root), read_run(folder))


def _name(folder: Path, root: Path) -> str:
    return folder.name if folder == root else folder.relative_to(root).as_posix()


def tuning_recipe(method: Recipe, earlier: Recipe) -> Recipe:
    """The stages of `method` that tune weights, starting from a result of `earlier`.

    Where they move the latents too, they do so in the space that the result was found in (its bounds included), at the
    method's own learning rate: the result's latents need not be of the space that the method was made for. Raises
    UsageError for a method that tunes nothing.
    """
    _, tuning = method.split()
    if tuning is None:
        known = [name for name in recipe_names() if Recipe.load(name).split()[1] is not None]
        raise UsageError(f"recipe {method.name!r} tunes no weights; those that do: {', '.join(known)}")
    space = next((part for stage in reversed(earlier.stages) for part in stage.spaces("ws")), None)
    stages = [replace(stage, optimize=tuple(_in_space(stage, space))) for stage in tuning.stages]
    stages[0] = replace(stages[0], init={"name": PREVIOUS})
    return replace(tuning, stages=tuple(stages))


def common_recipe(results: Sequence[EarlierResult]) -> Recipe:
    """The recipe that all of them were made by. Raises UsageError where there are several."""
    by_recipe = {result.record["recipe"]["digest"]: str(result.folder) for result in results}
    if len(by_recipe) > 1:
        folders = ", ".join(sorted(by_recipe.values()))
        raise UsageError(f"these results were made by different recipes ({folders}); tune those of one at a time")
    return results[0].recipe


def recipe_of(inversions: Sequence[Inversion]) -> Recipe:
    """The recipe that all of them were made by. Raises UsageError where there are none, or several recipes."""
    tables = {inversion.manifest["recipe"]["digest"]: inversion.recipe_toml for inversion in inversions}
    if len(tables) != 1:
        raise UsageError(f"results of one recipe are tuned at a time; these are of {len(tables)}")
    return Recipe.from_table(tomllib.loads(next(iter(tables.values()))))


def _in_space(stage: Stage, space: dict | None) -> Iterator[dict]:
    latent = stage.spaces("ws")
    for part in stage.optimize:
        if space is None or part not in latent:
            yield part
        else:
            rate = {"lr": part["lr"]} if "lr" in part else {}
            yield {key: value for key, value in space.items() if key != "lr"} | rate


def tuning_items(results: Sequence[EarlierResult], generator: Generator) -> list[Unread]:
    """The images of earlier results, to be read when their turn comes.

    Raises CheckpointError at once where the first was made with another generator; later ones fail in their turn.
    """
    check_generator(results[0], generator)
    return [
        Unread(r.name, str(r.record["source"]["path"]), partial(_target, r, generator), partial(_start, r, generator))
        for r in results
    ]


def check_generator(result: EarlierResult, generator: Generator) -> None:
    made_with = result.record["generator"]
    if made_with["fingerprint"] != generator.fingerprint:
        raise CheckpointError(
            f"{result.folder}: inverted with generator {made_with['name']!r} ({made_with['fingerprint']}), not with "
            f"{generator.name!r} ({generator.fingerprint}); pass --network with the same generator, or invert again"
        )


def _target(result: EarlierResult, generator: Generator) -> TargetImage:
    """The picture that the inversion had. A masked one is read again from its file, which must be unchanged."""
    source, options = result.record["source"], result.record.get("options", {})
    if options.get("alpha") == "mask":
        target = read_image(Path(source["path"]), generator.resolution, fit=options.get("fit", "crop"), alpha="mask")
        if target.sha256 != source["sha256"]:
            raise CheckpointError(f"{source['path']}: has changed since it was inverted; invert it again")
        return target
    image = read_png(result.folder / "target.png")
    return TargetImage(image, None, tuple(source["notes"]), source["sha256"], tuple(source["size"]))


def _start(result: EarlierResult, generator: Generator) -> Start:
    check_generator(result, generator)
    inputs = Inversion.load(result.folder).inputs
    files = [result.folder / name for name in ("inputs.safetensors", DELTA_FILE)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files if path.is_file())).hexdigest()
    recipe_toml = (result.folder / "recipe.toml").read_text()
    return Start(inputs, digest, {"tuned_from": tuned_from(result.record, recipe_toml, str(result.folder))})


def tuned_from(record: Mapping[str, Any], recipe_toml: str, folder: str = "") -> dict[str, Any]:
    """What a tuned result keeps of the inversion that it started from: its figures are the `before` of the tuning.

    Recipe and seed are kept whole, so that the inversion can be run again (for LEC) when its folder is gone.
    """
    kept = {key: record[key] for key in ("key", "recipe", "seed", "metrics", "seconds")}
    return {"folder": folder, **kept, "recipe_toml": recipe_toml}


def inversion_item(inversion: Inversion) -> Item:
    """An inversion that is at hand, to go on from."""
    source = inversion.manifest["source"]
    target = TargetImage(inversion.target, None, tuple(source["notes"]), source["sha256"], tuple(source["size"]))
    digest = hashlib.sha256(json.dumps([inversion.name, inversion.manifest["key"]]).encode())
    digest.update(inversion.inputs.ws.cpu().contiguous().numpy().tobytes())
    start = Start(
        inversion.inputs, digest.hexdigest(), {"tuned_from": tuned_from(inversion.manifest, inversion.recipe_toml)}
    )
    return Item(inversion.name, str(source["path"]), target, start)
