"""From a stage's tables to plug-ins: the problem that a stage is for certain images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from latentopt.devices import Profile
from latentopt.errors import UsageError
from latentopt.geometry.moves import moved_back
from latentopt.loop.joint import Joint
from latentopt.loop.optimizers import Elementwise
from latentopt.loop.problem import Objective, Problem
from latentopt.protocols import Generator, Operator, Optimizer, Parameterization
from latentopt.recipe.stage import PREVIOUS, Stage
from latentopt.registry import INITIALIZERS, OPERATORS, OPTIMIZERS, PARAMETERIZATIONS, TERMS
from latentopt.statistics.metric import PIXELS
from latentopt.statistics.sampling import w_std
from latentopt.types import Beginning, GeneratorInputs


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


def build_lens(generator: Generator, stage: Stage) -> Joint:
    """All spaces that the stage optimises in."""
    return Joint(
        {p["name"]: PARAMETERIZATIONS.create(p["name"], generator, **options_in(p, "lr")) for p in stage.optimize}
    )


def build_operator(generator: Generator, stage: Stage) -> Operator | None:
    """What the stage measures of images, None for the images themselves."""
    if stage.operator is None:
        return None
    return OPERATORS.create(stage.operator["name"], generator, **options_in(stage.operator))


ACCORDINGLY = (
    f"set metric_net and metric_size of the space accordingly (metric_net = 'none': {PIXELS} alone), or change the term"
)


def check_distances(lenses: Mapping[str, Parameterization], objective: Objective) -> None:
    """Raise UsageError for coordinates that were measured for another image distance than the stage's."""
    here = list(objective.distances) or [PIXELS]
    for name, lens in lenses.items():
        if lens.distance and lens.distance not in here:
            raise UsageError(
                f"the metric of space {name} was measured for the distance by {lens.distance}; this stage compares by "
                f"{' and '.join(here)}: {ACCORDINGLY}"
            )


def make_optimizer(generator: Generator, table: dict) -> Optimizer:
    """The optimiser of a stage. Raises UsageError for values that it refuses, such as a beta of 2."""
    name, options = table["name"], options_in(table)
    made = OPTIMIZERS.load(name)
    if isinstance(made, type) and issubclass(made, Optimizer):
        return cast(Any, made)(generator, **options)
    return Elementwise(name, partial(made, **options))


def build_problem(
    generator: Generator,
    stage: Stage,
    target: Tensor,
    seeds: Sequence[int],
    mask: Tensor | None = None,
    start: GeneratorInputs | None = None,
    begun: bool = False,
    profile: Profile | None = None,
) -> Problem:
    """Make a stage's plug-ins for images target [B,3,H,W] in [-1,1].

    `start` is what the stage before it ended with or, when the stage has `begun` already, what it started from.
    Raises UsageError for options that a plug-in refuses.
    """

    if start is None and stage.init["name"] == PREVIOUS:
        raise UsageError("this recipe goes on from an earlier result: give it one with latentopt tune, or set its init")
    if start is None or (stage.init["name"] != PREVIOUS and not begun):
        start = new_start(generator, stage, target, seeds, None if start is None else start.transform)
    operator = build_operator(generator, stage)
    measured = target if operator is None else operator(target)
    lens = build_lens(generator, stage)
    objective = build_objective(generator, stage, measured)
    check_distances(lens.lenses, objective)
    return Problem(
        generator=generator,
        target=target,
        start=start,
        lens=lens,
        objective=objective,
        stage=stage,
        seeds=tuple(seeds),
        optimizer=make_optimizer(generator, stage.optimizer),
        mask=mask,
        rates={p["name"]: p["lr"] for p in stage.optimize if "lr" in p},
        operator=operator,
        measured=measured,
        w_std=w_std(generator) if stage.jitter is not None else 0.0,
        profile=profile or Profile(on=False),
        beginning=None if stage.jitter is not None else begin(generator, lens, start, stage),
    )


def new_start(
    generator: Generator, stage: Stage, target: Tensor, seeds: Sequence[int], move: Tensor | None
) -> GeneratorInputs:
    """The stage's own start. `move`: where an earlier stage has found the picture; it is moved back for the start, and
    stays where it was found.
    """
    start = INITIALIZERS.create(stage.init["name"], generator, **options_in(stage.init))
    if move is None:
        return start(target, seeds)
    made = start(moved_back(target, move.expand(len(target), 3, 3)), seeds)
    return made if made.transform is not None else made.replace(transform=move)


@torch.no_grad()
def begin(generator: Generator, lens: Parameterization, start: GeneratorInputs, stage: Stage) -> Beginning | None:
    """What the generator draws alike in every step of the stage: it is drawn once."""
    changing = start.changed(lens.decode(lens.encode(start), start))
    parts = []
    for rows in torch.arange(len(start)).split(stage.batch):
        part = generator.begin(start.index(rows), changing, stage.noise_mode)
        if part is None:
            return None
        parts.append(part)
    return Beginning.cat(parts)
