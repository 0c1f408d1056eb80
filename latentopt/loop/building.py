"""From a stage's tables to plug-ins: the problem that a stage is for certain images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.loop.joint import Joint
from latentopt.loop.problem import Objective, Problem
from latentopt.protocols import Generator
from latentopt.recipe.stage import PREVIOUS, Stage
from latentopt.registry import INITIALIZERS, OPERATORS, OPTIMIZERS, PARAMETERIZATIONS, TERMS
from latentopt.statistics.sampling import w_std
from latentopt.types import GeneratorInputs


def options_in(part: dict, *own: str) -> dict:
    """The plug-in's options in its table; `own` are keys of the stage."""
    return {key: value for key, value in part.items() if key not in ("name", *own)}


def build_objective(generator: Generator, stage: Stage, target: Tensor) -> Objective:
    """The stage's terms for targets (or measurements of them) [B,3,H,W]."""
    return Objective(
        {
            p["name"]: (
                float(p.get("weight", 1)),
                TERMS.create(p["name"], generator, target, **options_in(p, "weight")),
            )
            for p in stage.terms
        }
    )


def check_optimizer(table: dict) -> dict[str, bool]:
    """What the optimiser keeps of a variable once it has moved it: {name: whether that is one number alone}.

    Raises UsageError for values that torch's optimiser refuses, such as a beta of 2.
    """
    options = options_in(table)
    point = torch.zeros(1, requires_grad=True)
    point.grad = torch.zeros(1)
    try:
        optimizer = OPTIMIZERS.create(table["name"], [{"params": [point], "lr": 1.0}], **options)
        optimizer.step()
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(f"optimizer {table['name']!r} refuses {options}: {error}") from error
    return {name: value.ndim == 0 for name, value in optimizer.state[point].items() if isinstance(value, Tensor)}


def build_problem(
    generator: Generator,
    stage: Stage,
    target: Tensor,
    seeds: Sequence[int],
    mask: Tensor | None = None,
    start: GeneratorInputs | None = None,
    begun: bool = False,
) -> Problem:
    """Make a stage's plug-ins for images target [B,3,H,W] in [-1,1].

    `start` is what the stage before it ended with or, when the stage has `begun` already, what it started from.
    Raises UsageError for options that a plug-in refuses.
    """

    if start is None and stage.init["name"] == PREVIOUS:
        raise UsageError("this recipe goes on from an earlier result: give it one with latentopt tune, or set its init")
    if start is None or (stage.init["name"] != PREVIOUS and not begun):
        start = INITIALIZERS.create(stage.init["name"], generator, **options_in(stage.init))(target, seeds)
    lenses = {p["name"]: PARAMETERIZATIONS.create(p["name"], generator, **options_in(p, "lr")) for p in stage.optimize}
    operator = None
    if stage.operator is not None:
        operator = OPERATORS.create(stage.operator["name"], generator, **options_in(stage.operator))
    measured = target if operator is None else operator(target)
    check_optimizer(stage.optimizer)
    return Problem(
        generator=generator,
        target=target,
        start=start,
        lens=Joint(lenses),
        objective=build_objective(generator, stage, measured),
        stage=stage,
        seeds=tuple(seeds),
        mask=mask,
        rates={p["name"]: p["lr"] for p in stage.optimize if "lr" in p},
        operator=operator,
        measured=measured,
        w_std=w_std(generator) if stage.jitter is not None else 0.0,
    )
