"""The one optimiser loop: everything fixed is in Problem, everything that changes in State, one Step record per step.

Images of a batch do not know of each other: losses are [B], the optimisers are elementwise, each image has its seed, its
best point, its learning rate and its end. An image that is finished leaves the batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.errors import LatentoptError, UsageError
from latentopt.loop.building import options_of
from latentopt.loop.problem import Problem
from latentopt.loop.state import RUNNING, State, has_rows
from latentopt.registry import OPTIMIZERS, SCHEDULES
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
    live, current = None, None
    while len(state.rows):
        if live is None or len(live) != len(state.rows):
            live, current = state.rows, problem.index(state.rows)
        yield _advance(current, state)


def _advance(problem: Problem, state: State) -> Step:
    started = time.perf_counter()
    rows, stage = state.rows, problem.stage
    clean = problem.jitter_std(state.step) == 0
    cost = _encoding_cost(problem, state) if state.step == 0 else None
    loss, parts, gradients = _measure(problem, state)
    finite = loss.isfinite() & _all_finite(gradients, len(rows))
    judged, hopeless = loss, ~finite & (state.step == 0)
    if state.shared:  # one gradient, which one image spoils for all; it is that image's fault if its loss is not finite
        hopeless &= ~loss.isfinite()
        judged, finite = loss.mean().expand_as(loss), finite.all().expand_as(finite)
    _record_best(problem, state, judged, finite, clean)
    status = _standing(problem, state, judged, parts, finite, hopeless, clean)
    lr = SCHEDULES.create(stage.schedule["name"], **options_of(stage.schedule))(problem.t(state.step))
    if state.step < stage.steps:
        _roll_back(state, gradients, ~finite)
        _update(problem, state, gradients, lr)
    for row, text in zip(rows.tolist(), status, strict=True):
        state.status[row] = text
    state.keep(torch.tensor([text == RUNNING for text in status], device=rows.device))
    step, state.step = state.step, state.step + 1
    return Step(
        step=step,
        t=problem.t(step),
        rows=rows.tolist(),
        loss=loss.tolist(),
        parts={name: part.tolist() for name, part in parts.items()},
        best_loss=state.best_loss[rows].tolist(),
        status=status,
        lr=lr * stage.lr,
        seconds=time.perf_counter() - started,
        encoding_cost=cost,
    )


def _encoding_cost(problem: Problem, state: State) -> list[float]:
    with torch.no_grad():
        moved = problem.lens.decode(state.variables, problem.start).ws - problem.start.ws
    return moved.square().mean(dim=(1, 2)).sqrt().tolist()


def _measure(problem: Problem, state: State) -> tuple[Tensor, dict[str, Tensor], Variables]:
    """Loss [b], parts and gradients, in chunks of `state.chunk` images; the chunk is halved when memory runs out."""
    while True:
        try:
            return _measure_chunks(problem, state)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            size = min(state.chunk, len(state.rows))
        if size == 1:
            raise LatentoptError(
                "out of memory with one image at a time: use --dtype bfloat16, a smaller size for the perceptual term, "
                "or a device with more memory"
            )
        state.chunk = (size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _over(rows: Tensor, like: Tensor) -> Tensor:
    """[b] in a shape that multiplies [b,...]."""
    return rows.reshape(-1, *[1] * (like.ndim - 1))


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _measure_chunks(problem: Problem, state: State) -> tuple[Tensor, dict[str, Tensor], Variables]:
    b = len(state.rows)
    losses, parts = [], []
    gradients = {name: torch.zeros_like(v) for name, v in state.variables.items()}
    for rows in torch.arange(b, device=state.rows.device).split(state.chunk):
        whole = len(rows) == b
        part = problem if whole else problem.index(rows)
        at = {name: state.own(name, rows) for name in state.variables}
        variables = {
            name: (v if whole else v[at[name]]).detach().requires_grad_() for name, v in state.variables.items()
        }
        loss, named = part.loss(variables, state.step)
        if not loss.requires_grad:
            raise UsageError("nothing that is optimised reaches the loss: add a term of the image, or another space")
        found = torch.autograd.grad(loss.sum(), list(variables.values()), allow_unused=True)
        for name, gradient in zip(variables, found, strict=True):
            if gradient is not None:
                gradients[name][at[name]] += gradient
        losses.append(loss.detach())
        parts.append({name: value.detach() for name, value in named.items()})
    return torch.cat(losses), {name: torch.cat([p[name] for p in parts]) for name in parts[0]}, gradients


def _all_finite(tensors: Variables, b: int) -> Tensor:
    """[b], whether an image's entries are finite in every tensor."""
    rows = [x.reshape(len(x), -1).isfinite().all(dim=1).expand(b) for x in tensors.values()]
    return torch.stack(rows).all(dim=0)


def _record_best(problem: Problem, state: State, loss: Tensor, finite: Tensor, clean: bool) -> None:
    """Keep each image's best measured point (or the last one); what jitter disturbed does not count."""
    rows = state.rows
    better = finite & (loss < state.best_loss[rows])
    if problem.stage.keep == "last":
        better = finite
    if not clean:
        better = torch.zeros_like(better)
    picked = rows[better]
    state.best_loss[picked], state.best_step[picked] = loss[better], state.step
    for name, v in state.variables.items():
        state.best[name][state.own(name, picked)] = v[state.own(name, better)]


def _standing(
    problem: Problem,
    state: State,
    loss: Tensor,
    parts: dict[str, Tensor],
    finite: Tensor,
    hopeless: Tensor,
    clean: bool,
) -> list[str]:
    """How each image stands after this measurement."""
    stage, stop, b = problem.stage, problem.stage.stop, len(loss)
    status = [RUNNING] * b
    state.retries += ~finite
    hopeless = hopeless | (~finite & (state.retries > MAX_RETRIES))
    if state.step >= stage.steps:
        hopeless |= state.best_loss[state.rows].isinf()  # no measurement that counts was finite
    reached = torch.zeros_like(finite)
    stalled = torch.zeros_like(finite)
    if stop is not None and clean:
        if stop.below is not None:
            reached = finite & (({"loss": loss} | parts)[stop.term] <= stop.below)
            reached = reached.all().expand_as(reached) if state.shared else reached
        if stop.patience is not None:
            fell = finite & (loss < state.anchor * (1 - stop.tolerance))
            state.anchor = torch.where(fell, loss, state.anchor)
            state.anchor_step = torch.where(fell, state.step, state.anchor_step)
            stalled = state.step - state.anchor_step >= stop.patience
    for i in range(b):
        if hopeless[i]:
            status[i] = "failed: the loss is not finite" + (" at the start" if state.step == 0 else "")
        elif reached[i]:
            status[i] = f"stopped: {stop.term} <= {stop.below:g}"
        elif stalled[i]:
            status[i] = f"stopped: no gain in {stop.patience} steps"
        elif state.step >= stage.steps:
            status[i] = "done"
    return status


def _roll_back(state: State, gradients: Variables, bad: Tensor) -> None:
    """Images whose loss is not finite return to their best point with half the rate, no momentum and no gradient.

    While jitter is on, no point counts as best: then it is the last finite one.
    """
    for name, v in state.variables.items():
        good = state.own(name, ~bad)
        state.safe[name][good] = v[good]
    if not bad.any():
        return
    state.rate[bad] *= 0.5
    for name, v in state.variables.items():
        at, rows = state.own(name, bad), state.own(name, state.rows[bad])
        measured = state.best_loss[state.rows[bad]].isfinite()[: len(rows)]
        v[at] = torch.where(_over(measured, v), state.best[name][rows], state.safe[name][at])
        gradients[name][at] = 0
        for moment in state.moments.get(name, {}).values():
            if has_rows(moment, v):
                moment[at] = 0


@torch.no_grad()
def _update(problem: Problem, state: State, gradients: Variables, factor: float) -> None:
    """One step of the optimiser, scaled for each image, then the projection."""
    stage = problem.stage
    old = state.variables
    new = {name: v.clone() for name, v in old.items()}
    groups = []
    for name, v in new.items():
        v.grad = gradients[name]
        rate = problem.rates.get(name.partition("/")[0], stage.lr)
        groups.append({"params": [v], "lr": rate * factor})
    optimizer = OPTIMIZERS.create(stage.optimizer["name"], groups, **options_of(stage.optimizer))
    for name, v in new.items():
        optimizer.state[v] = dict(state.moments.get(name, {}))
    optimizer.step()
    state.moments = {name: dict(optimizer.state[v]) for name, v in new.items()}
    if (state.rate != 1).any():
        for name, v in new.items():
            rate = _over(state.rate[: len(v)], v)
            new[name] = torch.where(rate == 1, v, torch.lerp(old[name], v, rate))  # 1 must not even round
    for v in new.values():
        v.grad = None
    state.variables = new
    problem.lens.project_(state.variables)
