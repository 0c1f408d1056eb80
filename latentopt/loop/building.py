"""From a stage's tables to plug-ins: the problem that a stage is for certain images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from latentopt.devices import Profile
from latentopt.errors import UsageError
from latentopt.geometry.moves import moved_back
from latentopt.loop.chain import Chain, Images, blank, joined
from latentopt.loop.joint import Joint
from latentopt.loop.optimizers import Elementwise
from latentopt.loop.problem import Objective, Problem
from latentopt.operators.mask import Mask
from latentopt.protocols import Generator, Operator, Optimizer, Parameterization, Source
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
                TERMS.create(p["name"], generator, target, **options_in(p, "weight", "moves")),
            )
            for p in stage.terms
        },
        {p["name"]: frozenset(p["moves"]) for p in stage.terms if "moves" in p},
    )


def build_lens(generator: Generator, stage: Stage) -> Joint:
    """All spaces that the stage optimises in."""
    return Joint(
        {p["name"]: PARAMETERIZATIONS.create(p["name"], generator, **options_in(p, "lr")) for p in stage.optimize}
    )


def build_operator(
    generator: Generator, tables: Sequence[dict], mask: Tensor | None = None, target: Tensor | None = None
) -> Operator | None:
    """What the operators in `tables`, one after the other, measure of images; None for the images themselves.

    mask [B,1,H,W] is that of an operator that wants one for each image; where there is none, only what the mask shows
    is compared, and `target` [B,C,H,W] stands for the rest. Raises UsageError for operators that refuse their options,
    or each other's measurements.
    """
    made: list[Operator] = []
    source: Source = generator
    for table in tables:
        operator = OPERATORS.create(table["name"], source, **options_in(table))
        made.append(operator)
        if len(made) < len(tables):
            with torch.no_grad():
                source = Images.like(operator(blank(source)), table["name"])
    if mask is None:
        return joined(made)
    if not any(wants_masks(operator) for operator in made):
        return joined([Mask(generator).of(mask, target), *made])
    return joined([masked(operator, mask) for operator in made])


def wants_masks(operator: Operator) -> TypeGuard[Mask]:
    """Whether it is a mask that every image has its own of."""
    return isinstance(operator, Mask) and operator.own


def masked(operator: Operator, mask: Tensor | None) -> Operator:
    """The same operator for images that have the masks [B,1,H,W], where it wants them."""
    if mask is None:
        return operator
    if isinstance(operator, Chain):
        return Chain([masked(part, mask) for part in operator.operators])
    return operator.of(mask) if wants_masks(operator) else operator


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
    measured: Tensor | None = None,
    operator: Operator | None = None,
) -> Problem:
    """Make a stage's plug-ins for images target [B,3,H,W] in [-1,1].

    `start` is what the stage before it ended with or, when the stage has `begun` already, what it started from.
    `measured` [B,...] is what there is of images that are not known, and which `target` merely stands for. `operator`
    takes the place of the stage's own.
    Raises UsageError for options that a plug-in refuses.
    """

    if start is None and stage.init["name"] == PREVIOUS:
        raise UsageError("this recipe goes on from an earlier result: give it one with latentopt tune, or set its init")
    measures = bool(stage.operators) or operator is not None
    given = None if operator is None else masked(operator, mask)
    operator = given or build_operator(generator, stage.operators, mask, target)
    if measured is None:
        measured = target if operator is None else operator(target)
    elif operator is not None:
        measured = operator.counted(measured)
    if start is None or (stage.init["name"] != PREVIOUS and not begun):
        move = None if start is None else start.transform
        start = new_start(generator, stage, target, seeds, move, operator if measures else None, measured)
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
        mask=None if measures else mask,
        rates={p["name"]: p["lr"] for p in stage.optimize if "lr" in p},
        operator=operator,
        measured=measured,
        w_std=w_std(generator) if stage.jitter is not None else 0.0,
        profile=profile or Profile(on=False),
        beginning=None if stage.jitter is not None else begin(generator, lens, start, stage),
    )


def new_start(
    generator: Generator,
    stage: Stage,
    target: Tensor,
    seeds: Sequence[int],
    move: Tensor | None = None,
    operator: Operator | None = None,
    measured: Tensor | None = None,
) -> GeneratorInputs:
    """The stage's own start. `move`: where an earlier stage has found the picture; it is moved back for the start, and
    stays where it was found: a start there goes by the picture alone, not by what the `operator` has `measured` of it.
    """
    start = INITIALIZERS.create(stage.init["name"], generator, **options_in(stage.init))
    if move is not None:
        made = start(moved_back(target, move.expand(len(target), 3, 3)), seeds)
        return made if made.transform is not None else made.replace(transform=move)
    if operator is None or measured is None:
        return start(target, seeds)
    return start.of_measurement(measured, operator, target, seeds)


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
