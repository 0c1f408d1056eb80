"""From a finished batch to one image's result: measured, and put on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from latentopt.devices import peak_memory
from latentopt.inverting.batch import Batch
from latentopt.inverting.events import Failed, Finished
from latentopt.inverting.items import Item
from latentopt.protocols import Generator
from latentopt.results.distortion import metrics
from latentopt.results.inversion import Inversion
from latentopt.results.manifest import manifest
from latentopt.results.redrawing import refiner_record
from latentopt.statistics.pnorm import PNorm
from latentopt.types import GeneratorInputs, LayerTensors

Change = Callable[[Generator, GeneratorInputs], tuple[Mapping[str, float], Mapping[str, object]]]
"""What tuning did to the rest of the generator: figures for the metrics, and how they were measured for the record."""


Figures = Callable[[Item, Tensor], Mapping[str, float]]
"""Of an item's result, which the generator draws as an image [C,H,W]."""


def likeness(item: Item, image: Tensor) -> dict[str, float]:
    """To the target."""
    found = metrics(image[None], item.target.image[None].to(image))
    return {name: value.item() for name, value in found.items()}


@dataclass(frozen=True)
class Circumstances:
    """What the results of one run have in common, found out once.

    files: what the recipe read, with hashes; options: what else decides a result; pnorm: the statistics that the
    radius is measured in; change: see `Change`; record: further entries of the manifest; figures: in place of
    `likeness`.
    """

    seed: int
    files: Mapping[str, str]
    options: Mapping[str, object]
    pnorm: PNorm | None = None
    change: Change | None = None
    record: Mapping[str, object] = field(default_factory=dict)
    figures: Figures | None = None


def outcome(batch: Batch, item: Item, i: int, image: Tensor, key: str, about: Circumstances) -> Finished | Failed:
    """What has become of `item`, the batch's image number `i`, which the generator draws as `image` [3,H,W]."""
    if batch.status[i].startswith("failed"):
        return Failed(item.name, item.source, batch.status[i].removeprefix("failed: "))
    if not image.isfinite().all():
        return Failed(item.name, item.source, "the image drawn from its best latent is not finite")
    inputs = batch.result.index([i])
    values = dict((about.figures or likeness)(item, image)) | batch.best_parts(i)
    if about.pnorm is not None:  # root mean square of the P-norm+ code: about 1 for the generator's own samples
        values["radius"] = about.pnorm.whiten(inputs.ws.double().cpu()).square().mean().sqrt().item()
    more = dict(item.start.record) if item.start is not None else {}
    if batch.refiner is not None:
        more["refiner"] = refiner_record(batch.recipe, batch.refiner)
    if inputs.deltas is not None:
        change, measured = _change(batch, inputs, inputs.deltas, about.change)
        values |= change
        more |= measured
    history = batch.history[i]
    record = manifest(
        key=key,
        source=item.source,
        target=item.target,
        recipe_name=batch.recipe.name,
        recipe_digest=batch.recipe.digest,
        generator=batch.generator,
        seed=about.seed,
        dtype=batch.generator.precision,
        seconds={"optimisation": sum(entry["seconds"] for entry in history)},
        steps=max(len(history) - 1, 0),
        stop_reason=batch.status[i],
        metrics=values,
        statistics=about.files,
        options=about.options,
        networks=batch.networks,
        noise_mode=batch.recipe.stages[-1].noise_mode,
        **more,
        **about.record,
    )
    toml = batch.recipe.dump()
    return Finished(Inversion(item.name, item.target.image, image.cpu(), inputs.to("cpu"), toml, history, record))


def _change(
    batch: Batch, inputs: GeneratorInputs, deltas: LayerTensors, measure: Change | None
) -> tuple[dict[str, float], dict[str, object]]:
    """How many weights tuning may have moved and, where it is measured, how far other pictures went."""
    values: dict[str, float] = {"tuned": sum(delta[0].numel() for delta in deltas.values())}
    values["peak_mb"] = peak_memory(batch.generator.device)
    rank = batch.recipe.rank
    record: dict[str, object] = {} if rank is None else {"rank": rank}
    if measure is None:
        return values, record | {"corruption": {"images": 0, "extractor": ""}}
    figures, how = measure(batch.generator, inputs)
    return values | dict(figures), record | dict(how)
