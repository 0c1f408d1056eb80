"""Before the work: whatever a recipe needs is tried, so that nothing is drawn for a run that cannot succeed."""

from __future__ import annotations

import torch

from latentopt.errors import UsageError
from latentopt.files.kinds import check_file
from latentopt.inverting.measured import ensure_metrics
from latentopt.inverting.tuning import sigma_layers
from latentopt.loop.building import (
    build_lens,
    build_objective,
    build_operator,
    check_distances,
    make_optimizer,
    options_in,
)
from latentopt.loop.refining import make_refiner
from latentopt.protocols import Generator, Operator
from latentopt.recipe.files import recipe_files
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import PREVIOUS, Reading
from latentopt.registry import FILES, INITIALIZERS
from latentopt.statistics.sigma_fit import ensure_sigma
from latentopt.watching.phases import tell


def prepare(recipe: Recipe, generator: Generator, given: Operator | None = None) -> None:
    """Make every plug-in of a recipe once; those that need statistics which are not there wait until the others are
    made, and the statistics measured. `given` takes the place of the recipe's operators.

    Raises what would be raised in the midst of the work: UsageError for options that a plug-in refuses,
    MissingWeightsError and CheckpointError for networks and files, StatisticsError for what takes minutes to measure.
    """
    check_latents(generator)
    recipe_files(recipe, generator)  # encoders
    if not generator.noise_shapes and any(stage.spaces("noise") for stage in recipe.stages):
        tell(f"{generator.name}: a {generator.family} generator has no noise maps: {recipe.name} goes on without them")
    check_named(recipe, generator)
    waits = any(reading.named is None and _is_missing(reading, generator) for reading in recipe.reads)
    if not waits:
        _make_spaces(recipe, generator)
    blank = torch.zeros(1, generator.img_channels, *generator.resolution, device=generator.device)
    objectives = []
    for stage in recipe.stages:
        make_optimizer(generator, stage.optimizer)
        make_refiner(generator, stage)
        operator = given or build_operator(generator, stage.operators)
        objectives.append(build_objective(generator, stage, blank if operator is None else operator(blank)))
    if recipe.looks_for("sigma"):
        ensure_sigma(generator, sigma_layers(recipe))
    ensure_metrics(generator, recipe)
    if waits:
        _make_spaces(recipe, generator)
    for stage, objective in zip(recipe.stages, objectives, strict=True):
        check_distances(build_lens(generator, stage).lenses, objective)


def check_latents(generator: Generator) -> None:
    """Raise UsageError where w has 16 bits: steps of an optimiser are smaller than what these can tell apart."""
    if (dtype := generator.w_avg.dtype).itemsize < 4:
        raise UsageError(
            f"{generator.name}: the whole generator is in {str(dtype).removeprefix('torch.')}, its w too, and steps in "
            f"w are smaller than that can hold. Load it in float32; generator.set_precision({dtype}) then draws in it"
        )


def check_named(recipe: Recipe, generator: Generator) -> None:
    """Raise CheckpointError where a file is named that is not there."""
    for reading in recipe.reads:
        if reading.named is None:
            continue
        paths = FILES.load(reading.kind)(generator, reading.named, reading.part)
        for path in paths:
            check_file(path, f"a file that the recipe's {reading.part['name']!r} reads")


def _is_missing(reading: Reading, generator: Generator) -> bool:
    """Whether the generator has no file of a kind that would be measured now."""
    kind = FILES.load(reading.kind)
    measured = reading.kind in ("sigma", "metric") or getattr(kind, "make", None) is not None
    return measured and not kind(generator, None, reading.part)


def _make_spaces(recipe: Recipe, generator: Generator) -> None:
    for stage in recipe.stages:
        if stage.init["name"] != PREVIOUS:
            INITIALIZERS.create(stage.init["name"], generator, **options_in(stage.init))
        build_lens(generator, stage)
