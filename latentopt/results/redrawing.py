"""Drawing what was made of a result: through the refiner that it remembers, with its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.errors import CheckpointError, LatentoptError
from latentopt.protocols import Generator, Refiner
from latentopt.recipe.recipe import Recipe
from latentopt.registry import REFINERS
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs


@dataclass(frozen=True)
class Redraw:
    """What stands between the edited inputs of a result and the generator.

    base: the result's inputs, without what its refiner added; without a refiner, edits are drawn as they are.
    """

    base: GeneratorInputs
    target: Tensor | None = None  # [1,C,H,W], with a refiner
    refiner: Refiner | None = None
    noise_mode: str = "const"

    def __call__(self, edited: GeneratorInputs) -> GeneratorInputs:
        """What is drawn for `edited`, made of `base`: V images on any device."""
        if self.refiner is None or self.target is None:
            return edited
        return self.refiner(self.target, self.base, edited, self.noise_mode)

    def pictures(self, edited: GeneratorInputs) -> dict[str, Tensor]:
        """Pictures [3,h,w] of what the refiner did for one edited image, by name."""
        if self.refiner is None or self.target is None:
            return {}
        found = self.refiner.pictures(self.target, self.base, edited, self.noise_mode)
        return {name: x[0] for name, x in found.items()}


def redraw_of(inversion: Inversion, generator: Generator) -> Redraw:
    """How edits of a result are drawn. Raises CheckpointError and MissingWeightsError as `redraws`."""
    return redraws([inversion], generator)[0]


def redraws(inversions: Sequence[Inversion], generator: Generator) -> list[Redraw]:
    """How edits of each result are drawn; refiners that several share are loaded once.

    Raises CheckpointError where a refiner is not the one that the result was made with, or its file is gone;
    MissingWeightsError where it was a bundled one.
    """
    loaded: dict[str, Refiner] = {}
    found = []
    for inversion in inversions:
        record = inversion.manifest.get("refiner")
        refiner = None
        if record is not None:
            key = repr(record)
            if key not in loaded:
                loaded[key] = _load(record, generator, inversion.name)
            refiner = loaded[key]
        mode = "none" if inversion.manifest.get("noise_mode") == "none" else "const"
        found.append(Redraw(inversion.base, inversion.target[None], refiner, mode))
    return found


def refiner_record(recipe: Recipe, refiner: Refiner) -> dict[str, Any]:
    """What a result keeps of its refiner, so that it can be had again from any folder."""
    refine = recipe.stages[-1].refine or {}
    options = {key: value for key, value in refine.items() if key != "name"}
    reads = REFINERS.declared(refine["name"]).reads
    named = {key: str(Path(options[key]).absolute()) for key in reads if options.get(key)}
    return {
        "name": refine["name"],
        "options": options,
        "files": named,
        "layer": refiner.layer,
        "fingerprint": refiner.record["fingerprint"],
    }


def _load(record: Mapping[str, Any], generator: Generator, where: str) -> Refiner:
    try:
        options = {**record["options"], **record["files"]}
        REFINERS.check(record["name"], options, "refiner")
        refiner: Refiner = REFINERS.create(record["name"], generator, **options)
    except LatentoptError as error:
        text = f"{where}: its edits are drawn through the refiner {record['name']!r}, which cannot be had: {error}"
        raise type(error)(text) from error
    if refiner.record["fingerprint"] != record["fingerprint"] or refiner.layer != record["layer"]:
        raise CheckpointError(
            f"{where}: made with refiner {record['fingerprint']}; {record['name']!r} is now "
            f"{refiner.record['fingerprint']}: refine the image again"
        )
    return refiner
