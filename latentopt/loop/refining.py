"""A stage that refines: residuals that a refiner finds once, measured as the end of an optimisation is."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from latentopt.loop.building import options_in
from latentopt.loop.loop import Step
from latentopt.loop.problem import Problem
from latentopt.protocols import Generator, Refiner
from latentopt.recipe.stage import Stage
from latentopt.registry import REFINERS
from latentopt.types import GeneratorInputs

NOT_FINITE = "failed: the loss of the refined image is not finite"


def make_refiner(generator: Generator, stage: Stage) -> Refiner | None:
    """The refiner of a stage, None where it optimises. Raises what loading its files raises."""
    if stage.refine is None:
        return None
    return REFINERS.create(stage.refine["name"], generator, **options_in(stage.refine))


@torch.no_grad()
def refine(problem: Problem, refiner: Refiner, chunk: int | None = None) -> tuple[GeneratorInputs, Step]:
    """The start of the problem's images with residuals, and the one record of the stage. chunk: images at once."""
    began = time.perf_counter()
    mode = "const" if problem.stage.noise_mode == "random" else problem.stage.noise_mode
    found, losses, named = [], [], []
    rows = torch.arange(len(problem.target), device=problem.target.device)
    for part in rows.split(min(chunk or len(rows), problem.stage.batch)):
        some = problem.index(part)
        with problem.profile.part("refiner"):
            found.append(refiner(some.target, some.start, some.start, mode))
        loss, values = replace(some, start=found[-1]).loss({}, 0)
        losses.append(loss)
        named.append(values)
    loss = torch.cat(losses)
    step = Step(
        step=0,
        t=0.0,
        rows=rows.tolist(),
        loss=loss.tolist(),
        parts={name: torch.cat([values[name] for values in named]).tolist() for name in named[0]},
        best_loss=loss.tolist(),
        status=["done" if math.isfinite(value) else NOT_FINITE for value in loss.tolist()],
        lr=0.0,
        seconds=time.perf_counter() - began,
    )
    return GeneratorInputs.cat(found), step
