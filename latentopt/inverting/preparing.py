"""Before the work: whatever a recipe needs is tried, so that nothing is drawn for a run that cannot succeed."""

from __future__ import annotations

import torch

from latentopt.inverting.tuning import sigma_layers
from latentopt.loop.building import build_lens, build_objective, build_operator, check_optimizer, options_in
from latentopt.protocols import Generator
from latentopt.recipe.files import recipe_files
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import PREVIOUS
from latentopt.registry import INITIALIZERS
from latentopt.statistics.sigma_fit import ensure_sigma


def prepare(recipe: Recipe, generator: Generator) -> None:
    """Make every plug-in of a recipe once, the networks first; then measure the statistics that are not there.

    Raises what would be raised in the midst of the work: UsageError for options that a plug-in refuses,
    MissingWeightsError and CheckpointError for networks, StatisticsError for what takes minutes to measure.
    """
    recipe_files(recipe, generator)  # encoders
    blank = torch.zeros(1, generator.img_channels, *generator.resolution, device=generator.device)
    for stage in recipe.stages:
        check_optimizer(stage.optimizer)
        operator = build_operator(generator, stage)
        build_objective(generator, stage, blank if operator is None else operator(blank))
    if recipe.looks_for("sigma"):
        ensure_sigma(generator, sigma_layers(recipe))
    for stage in recipe.stages:
        if stage.init["name"] != PREVIOUS:
            INITIALIZERS.create(stage.init["name"], generator, **options_in(stage.init))
        build_lens(generator, stage)
