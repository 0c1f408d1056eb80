"""From a finished run to one image's result: measured, and put on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from latentopt.devices import peak_memory
from latentopt.distortion import metrics
from latentopt.evaluation.corruption import corruption
from latentopt.events import Failed, Finished
from latentopt.inversion import Inversion
from latentopt.items import Item
from latentopt.manifest import manifest
from latentopt.recipe_files import recipe_sigma, recipe_statistics
from latentopt.run import Run
from latentopt.types import GeneratorInputs

if TYPE_CHECKING:
    from latentopt.inverter import Inverter


def result(inverter: Inverter, run: Run, item: Item, i: int, image: Tensor) -> Finished | Failed:
    """What has become of `item`, the run's image number `i`, which the generator draws as `image` [3,H,W]."""
    if run.status[i].startswith("failed"):
        return Failed(item.name, item.source, run.status[i].removeprefix("failed: "))
    if not image.isfinite().all():
        return Failed(item.name, item.source, "the image drawn from its best latent is not finite")
    inputs = run.start.index([i])
    target = item.target.image[None].to(image)
    values = {name: value.item() for name, value in metrics(image[None], target).items()} | run.best_parts(i)
    radius = _radius(inverter, inputs)
    if radius is not None:
        values["radius"] = radius
    about = dict(item.start.record) if item.start is not None else {}
    if inputs.deltas is not None:
        change, extractor = _change(inverter, inputs)
        values |= change
        about |= {"corruption": {"images": inverter.corruption, "extractor": extractor}}
        ranks = [part["rank"] for stage in inverter.recipe.stages for part in stage.optimize if "rank" in part]
        about |= {"rank": sum(ranks)} if ranks else {}
    sigma = recipe_sigma(inverter.recipe, inverter.generator)
    if sigma is not None:
        about["sigma"] = {"origin": sigma[0].origin, "file": str(sigma[1])}
    history = run.history[i]
    record = manifest(
        key=inverter.run_key(item),
        source=item.source,
        target=item.target,
        recipe_name=inverter.recipe.name,
        recipe_digest=inverter.recipe.digest,
        generator=inverter.generator,
        seed=inverter.seed,
        dtype=inverter.dtype,
        seconds={"optimisation": sum(entry["seconds"] for entry in history)},
        steps=max(len(history) - 1, 0),
        stop_reason=run.status[i],
        metrics=values,
        statistics=inverter.files,
        options=dict(inverter.options),
        networks=run.networks,
        noise_mode=inverter.recipe.stages[-1].noise_mode,
        **about,
    )
    toml = inverter.recipe.dump()
    return Finished(Inversion(item.name, item.target.image, image.cpu(), inputs.to("cpu"), toml, history, record))


def _radius(inverter: Inverter, inputs: GeneratorInputs) -> float | None:
    """Root mean square of the P-norm+ code: about 1 for the generator's own samples. None without statistics."""
    statistics = recipe_statistics(inverter.recipe, inverter.generator)
    if statistics is None:
        return None
    return statistics[0].whiten(inputs.ws.double().cpu()).square().mean().sqrt().item()


def _change(inverter: Inverter, inputs: GeneratorInputs) -> tuple[dict[str, float], str]:
    """What tuning did to the generator: how many weights it may have moved, and how far its other pictures went."""
    generator = inverter.generator
    values = {"tuned": sum(delta[0].numel() for delta in inputs.deltas.values())}
    values["peak_mb"] = peak_memory(generator.device)
    if not inverter.corruption:
        return values, ""
    found = corruption(generator, inputs, n=inverter.corruption)
    return values | {"frechet": found.frechet, "kernel": found.kernel}, found.extractor
