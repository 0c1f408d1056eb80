"""The one optimiser loop: everything fixed is in Problem, everything that changes in State, one Step record per step.

Images of a batch do not know of each other: losses are [B], the optimisers are elementwise, each image has its seed,
its best point, its learning rate and its end. An image that is finished leaves the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.loop.building import options_in
from latentopt.loop.measuring import measure
from latentopt.loop.problem import Problem
from latentopt.loop.state import RUNNING, UNSTEADY, Measurement, State, copy_rows, over
from latentopt.protocols import IMAGES
from latentopt.registry import SCHEDULES
from latentopt.types import Variables

MAX_RETRIES = 3


@dataclass(frozen=True)
class Step:
    """One measurement, taken before the update. Vectors are over `rows`, the images that were in the batch."""

    step: int
    t: float
    rows: list[int]
    loss: list[float]
    parts: dict[str, list[float]]
    best_loss: list[float]
    status: list[str]
    lr: float
    seconds: float
    encoding_cost: list[float] | None = None  # first step: how far the start moved to fit the space (rms of ws)


def minimise(problem: Problem, state: State) -> Iterator[Step]:
    """Run a stage from `state` to its end, changing `state` in place between the records.

    The state is complete whenever a record is yielded: saving it then and going on later gives the same result. Every
    stage ends with one measurement more than updates, so the last update is judged too.
    """
    live, current = state.rows, problem.index(state.rows)
    while len(state.rows):
        if len(live) != len(state.rows):
            live, current = state.rows, problem.index(state.rows)
        with problem.profile.part("records"):
            step = _advance(current, state)
        yield step


def _advance(problem: Problem, state: State) -> Step:
    started = time.perf_counter()
    rows, stage = state.rows, problem.stage
    cost = _encoding_cost(problem, state) if state.step == 0 else None
    measured = measure(problem, state)
    state.note(measured, stage.keep, stage.stop)
    status = standing(problem, state, measured)
    lr = SCHEDULES.create(stage.schedule["name"], **options_in(stage.schedule))(problem.t(state.step))
    for row, text in zip(rows.tolist(), status, strict=True):
        state.status[row] = text
    going_on = torch.tensor([text == RUNNING for text in status], device=rows.device)
    state.keep(going_on)
    if len(state.rows):
        left = measured.of(going_on, state)
        _roll_back(state, left.gradients, ~left.finite)
        with problem.profile.part("optimizer"):
            _update(problem, state, left, lr)
    step, state.step = state.step, state.step + 1
    return Step(
        step=step,
        t=problem.t(step),
        rows=rows.tolist(),
        loss=measured.loss.tolist(),
        parts={name: part.tolist() for name, part in measured.parts.items()},
        best_loss=state.best_loss[rows].tolist(),
        status=status,
        lr=lr * stage.lr,
        seconds=time.perf_counter() - started,
        encoding_cost=cost,
    )


def _encoding_cost(problem: Problem, state: State) -> list[float]:
    if "ws" not in problem.lens.owns:
        return [0.0] * len(state.rows)
    with torch.no_grad():
        moved = problem.lens.decode(state.variables, problem.start).ws - problem.start.ws
    return moved.square().mean(dim=(1, 2)).sqrt().tolist()


def standing(problem: Problem, state: State, measured: Measurement) -> list[str]:
    """How each image stands after a measurement that `state.note` has taken note of: `running`, or how it ended."""
    stage, stop = problem.stage, problem.stage.stop
    last = state.step >= stage.steps
    hopeless = measured.hopeless | (~measured.finite & (state.retries > MAX_RETRIES))
    if last:
        hopeless = hopeless | state.best_loss[state.rows].isinf()  # no measurement that counts was finite
    status = ["done" if last else RUNNING] * len(measured.loss)
    if stop is not None and measured.clean:
        if stop.patience is not None:
            stalled = state.step - state.anchor_step >= stop.patience
            status = _where(stalled, f"stopped: no gain in {stop.patience} steps", status)
        if stop.below is not None:
            reached = measured.finite & (measured.part(stop.term) <= stop.below)
            reached = reached.all().expand_as(reached) if state.shared else reached
            status = _where(reached, f"stopped: {stop.term} <= {stop.below:g}", status)
    status = [_unsteady(text, bad) for text, bad in zip(status, state.retries.tolist(), strict=True)]
    return _where(hopeless, "failed: the loss is not finite" + (" at the start" if state.step == 0 else ""), status)


def _unsteady(text: str, steps: int) -> str:
    """The end of an image in which some `steps` had no finite loss."""
    if text == RUNNING or not steps:
        return text
    return "; ".join(filter(None, (text.removeprefix("done"), f"{UNSTEADY} {steps} step{'s' * (steps > 1)}")))


def _where(chosen: Tensor, text: str, others: list[str]) -> list[str]:
    return [text if yes else other for yes, other in zip(chosen.tolist(), others, strict=True)]


def _roll_back(state: State, gradients: Variables, bad: Tensor) -> None:
    """Images whose loss is not finite return to their best point with half the rate, no momentum and no gradient.

    While jitter is on, no point counts as best: then it is the last finite one.
    """
    if state.best_loss[state.rows].isinf().any():
        good = (~bad).nonzero()[:, 0]
        for name, v in state.variables.items():
            at = state.own(name, good)
            copy_rows(v, at, state.safe[name], at)
    if not bad.any():
        return
    state.rate[bad] *= 0.5
    for name, v in state.variables.items():
        at, rows = state.own(name, bad), state.own(name, state.rows[bad])
        measured = state.best_loss[state.rows[bad]].isfinite()[: len(rows)]
        v[at] = torch.where(over(measured, v), state.best[name][rows], state.safe[name][at])
        gradients[name][at] = 0
    state.forget(bad)


@torch.no_grad()
def _update(problem: Problem, state: State, measured: Measurement, factor: float) -> None:
    """One step of the optimiser, then the projection."""
    loss = torch.where(measured.finite, measured.loss, math.inf)
    if state.is_shared(IMAGES):
        loss = loss.sum(dim=0, keepdim=True)
    lr = {name: problem.lr(name) * factor for name in state.variables}
    scale = state.rate[: len(loss)]
    problem.optimizer.step(state.variables, measured.gradients, loss, state.moments, lr, scale)
    problem.lens.project_(state.variables)
