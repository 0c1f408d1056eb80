"""What a saved batch has to be, so that work can go on from it: checked before anything is computed with it."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor

from latentopt.checkpoints.saved_inputs import check_inputs
from latentopt.errors import CheckpointError
from latentopt.files.schema import parse_json
from latentopt.loop.problem import Problem
from latentopt.loop.state import State
from latentopt.protocols import Generator, Memory, Optimizer
from latentopt.recipe.recipe import Recipe
from latentopt.types import GeneratorInputs


class DamagedState(CheckpointError):
    """A saved batch that cannot be gone on with."""


class _Meta(TypedDict):
    keys: list[str]
    seeds: list[int]
    stage: int
    status: list[str]
    best_step: list[int]
    networks: dict[str, str]
    digest: str
    fingerprint: str


class StageMeta(TypedDict):
    """How far the stage at work is."""

    step: int
    chunk: int
    status: list[str]


class Meta(_Meta, total=False):
    """What is saved of a batch besides tensors; `state` while a stage is at work, `chunk` where memory was short."""

    state: StageMeta
    chunk: int | None


def parse_meta(text: str) -> Meta:
    """Raises ValueError, naming the entry, for what is none."""
    meta: Meta = parse_json(text, Meta)
    images = len(meta["keys"])
    lengths = {len(meta["seeds"]), len(meta["status"]), len(meta["best_step"]) or images}
    if not images or lengths != {images}:
        raise ValueError(f"it is of {images} images, with {sorted(lengths)} entries for them")
    return meta


def parse_history(data: Tensor, images: int) -> list[list[dict[str, Any]]]:
    """The records of each image's steps. Raises ValueError for what is none."""
    if data.dtype != torch.uint8 or data.ndim != 1:
        raise ValueError("the history is no text")
    history = parse_json(bytes(data.numpy()).decode(), list[list[dict[str, Any]]])
    if len(history) != images:
        raise ValueError(f"{len(history)} histories of {images} images")
    for record in (record for records in history for record in records):
        if not all(type(record.get(key)) is int for key in ("stage", "step")):
            raise ValueError("a record without stage and step")
        if not all(type(value) in (int, float) for value in record.values()):
            raise ValueError("a record with something else than numbers")
        if "seconds" not in record:
            raise ValueError("a record without its time")
    return history


def check_progress(meta: Meta, history: list[list[dict[str, Any]]], recipe: Recipe) -> None:
    """Raise ValueError where stage, state and history contradict one another. Between two stages there is no state."""
    stages, stage = len(recipe.stages), meta["stage"]
    if not 0 <= stage <= stages or ("state" in meta and stage == stages):
        raise ValueError(f"stage {stage} of {stages} without what belongs to it")
    if stage and not meta["best_step"]:
        raise ValueError("no best steps of the stage before")
    if "state" in meta:
        state = meta["state"]
        if not 0 <= state["step"] <= recipe.stages[stage].steps + 1 or state["chunk"] < 1:
            raise ValueError(f"step {state['step']} of {recipe.stages[stage].steps}")
    if stage < stages:
        return
    terms = ["loss", *(part["name"] for part in recipe.stages[-1].terms)]
    for status, best, records in zip(meta["status"], meta["best_step"], history, strict=True):
        kept = [r for r in records if (r["stage"], r["step"]) == (stages - 1, best)]
        if not status.startswith("failed") and not (kept and all(term in kept[0] for term in terms)):
            raise ValueError("no record of the best step")


def check_start(inputs: GeneratorInputs, generator: Generator, images: int) -> None:
    """Raise CheckpointError or ValueError for inputs that are not those of so many images of `generator`."""
    groups = [x for _, group in inputs.groups for x in (group or {}).values()]
    for x in [inputs.ws, *groups, *([] if inputs.transform is None else [inputs.transform])]:
        if not x.ndim or len(x) not in (1, images) or not x.is_floating_point():
            raise ValueError("the inputs are not those of its images")
    if len(inputs) != images:
        raise ValueError(f"the inputs are of {len(inputs)} images")
    check_inputs(inputs, generator, "the inputs")


def check_state(state: State, images: int) -> None:
    """Raise ValueError where the parts of a state do not fit each other."""
    rows, live = state.rows, len(state.rows) if state.rows.ndim == 1 else -1
    if rows.dtype != torch.int64 or live < 0 or rows.tolist() != sorted(set(rows.tolist()) & set(range(images))):
        raise ValueError("its rows are not those of its images")
    for name, count, whole in (
        ("rate", live, False),
        ("anchor", live, False),
        ("best_loss", images, False),
        ("retries", live, True),
        ("anchor_step", live, True),
        ("best_step", images, True),
    ):
        x: Tensor = getattr(state, name)
        right = x.dtype == torch.int64 if whole else x.is_floating_point() and not x.isnan().any()
        if tuple(x.shape) != (count,) or not right:
            raise ValueError(f"{name} is {x.dtype} {list(x.shape)}")
    if not ((state.rate > 0) & (state.rate <= 1)).all() or len(state.status) != images:
        raise ValueError("its rates or its status are not those of its images")
    _check_variables(state, live, images)


def _check_variables(state: State, live: int, images: int) -> None:
    if not state.variables or not state.variables.keys() == state.safe.keys() == state.best.keys():
        raise ValueError("its variables differ")
    for name, x in state.variables.items():
        shared = images > 1 and state.best[name].shape[:1] == (1,)
        counts = (min(live, 1), min(live, 1), 1) if shared else (live, live, images)
        for y, count in zip((x, state.safe[name], state.best[name]), counts, strict=True):
            if y.shape[:1] != (count,) or y.shape[1:] != x.shape[1:] or not y.is_floating_point():
                raise ValueError(f"{name} is {y.dtype} {list(y.shape)}")


def check_fits(state: State, problem: Problem) -> None:
    """Raise ValueError unless the state is of the variables [B,...] that the stage optimises, and what the optimiser
    and the terms remember is what they would remember of them.
    """
    variables = problem.lens.encode(problem.start)
    wanted = {name: (tuple(x.shape), x.dtype) for name, x in variables.items()}
    found = {name: (tuple(x.shape), x.dtype) for name, x in state.best.items()}
    if found != wanted:
        raise ValueError(f"its variables are {found}, not {wanted}")
    moved = bool(state.moments) or state.step > 1
    optimizer = problem.optimizer
    if moved and len(state.rows) and _shapes(state.moments, optimizer) != _shapes(_tried(state, optimizer), optimizer):
        raise ValueError("what its optimiser remembers is not of its variables")
    first = problem.view(variables, 0, {})[1] if state.step and problem.objective.remembers else {}
    if {k: x.shape for k, x in first.items()} != {k: x.shape for k, x in state.remembered.items()}:
        raise ValueError("what its terms remember is not of its images")
    if not all(x.is_floating_point() and x.isfinite().all() for x in state.remembered.values()):
        raise ValueError("what its terms remember are no finite numbers")


def _tried(state: State, optimizer: Optimizer) -> Memory:
    """What the optimiser remembers after one step that changes nothing of the state."""
    memory: Memory = {}
    variables = {name: x.clone() for name, x in state.variables.items()}
    still = {name: torch.zeros_like(x) for name, x in variables.items()}
    rows = min(map(len, variables.values()))
    nothing = next(iter(still.values())).new_zeros(rows)
    optimizer.step(variables, still, nothing, memory, dict.fromkeys(variables, 1.0), torch.ones_like(nothing))
    return memory


def _shapes(memory: Memory, optimizer: Optimizer) -> dict[tuple[str, str], tuple[torch.Size, torch.dtype]]:
    """Of all tables, those that grow as if they were empty."""

    def shape(key: str, x: Tensor) -> torch.Size:
        return x[:, :0].shape if key in optimizer.grows and x.ndim > 1 else x.shape

    return {(name, key): (shape(key, x), x.dtype) for name, table in memory.items() for key, x in table.items()}
