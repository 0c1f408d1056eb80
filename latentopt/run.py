"""A batch of images on its way through the stages of a recipe: can be stopped after any step, saved, and gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from latentopt.errors import CheckpointError, UsageError
from latentopt.generators.cloud import w_std
from latentopt.loop import Step, minimise
from latentopt.parameterizations.joint import Joint
from latentopt.problem import Objective, Problem
from latentopt.protocols import Generator, Parameterization
from latentopt.recipe import Recipe
from latentopt.registry import INITIALIZERS, OPTIMIZERS, PARAMETERIZATIONS, TERMS
from latentopt.stage import Stage
from latentopt.state import State
from latentopt.storage import load_tensors, save_tensors
from latentopt.types import GeneratorInputs

FORMAT = "latentopt-run-1"
DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError)  # what reading a damaged state raises


def image_seed(seed: int, key: str) -> int:
    """The seed of one image: a function of the run's seed and the image's key, not of order or companions."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7], "big")


def check_optimizer(table: dict) -> None:
    """Raise UsageError for values that torch's optimiser refuses, such as a beta of 2."""
    options = {key: value for key, value in table.items() if key != "name"}
    point = torch.zeros(1, requires_grad=True)
    point.grad = torch.zeros(1)
    try:
        OPTIMIZERS.create(table["name"], [{"params": [point], "lr": 1.0}], **options).step()
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(f"optimizer {table['name']!r} refuses {options}: {error}") from error


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

    def options(part: dict, *own: str) -> dict:
        return {key: value for key, value in part.items() if key not in ("name", *own)}

    if start is None and stage.init["name"] == "previous":
        raise UsageError("this recipe goes on from an earlier result: give it one with latentopt tune, or set its init")
    if start is None or (stage.init["name"] != "previous" and not begun):
        start = INITIALIZERS.create(stage.init["name"], generator, **options(stage.init))(target, seeds)
    lenses = {p["name"]: PARAMETERIZATIONS.create(p["name"], generator, **options(p, "lr")) for p in stage.optimize}
    terms = {
        p["name"]: (float(p.get("weight", 1)), TERMS.create(p["name"], generator, target, **options(p, "weight")))
        for p in stage.terms
    }
    check_optimizer(stage.optimizer)
    return Problem(
        generator=generator,
        target=target,
        start=start,
        lens=Joint(lenses),
        objective=Objective(terms),
        stage=stage,
        seeds=tuple(seeds),
        mask=mask,
        rates={p["name"]: p["lr"] for p in stage.optimize if "lr" in p},
        w_std=w_std(generator) if stage.jitter is not None else 0.0,
    )


@dataclass
class Run:
    """Images target [B,3,H,W], named by `keys`, and how far the recipe has got with them.

    Iterate `steps()` to work; between two records the run may be saved with `save` and gone on with after `load`.
    """

    generator: Generator
    recipe: Recipe
    target: Tensor
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    mask: Tensor | None = None
    stage: int = 0
    start: GeneratorInputs | None = None
    state: State | None = None
    status: list[str] = field(default_factory=list)
    history: list[list[dict]] = field(default_factory=list)
    chunk: int | None = None  # images drawn at once, where memory ran out for all
    best_step: list[int] = field(default_factory=list)  # of the last finished stage
    networks: dict[str, str] = field(default_factory=dict)  # what the terms of the last stage measured with
    _lens: Parameterization | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.status = self.status or ["running"] * len(self.keys)
        self.history = self.history or [[] for _ in self.keys]

    def steps(self) -> Iterator[tuple[int, Step]]:
        """Do the work: (stage, record) after each step. Images that fail stay behind; the others go on."""
        while self.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.stage]
            problem = build_problem(
                self.generator, stage, self.target, self.seeds, self.mask, self.start, begun=self.state is not None
            )
            self._lens, self.networks = problem.lens, problem.objective.networks
            if self.state is None:
                self.start = problem.start
                self.state = State.initial(problem)
                failed = [text.startswith("failed") for text in self.status]
                self.state.keep(~torch.tensor(failed, device=self.target.device))
            for step in minimise(problem, self.state):
                self.chunk = self.state.chunk
                self._record(step)
                yield self.stage, step
            self._finish_stage()

    def _record(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            entry = {"stage": self.stage, "step": step.step, "loss": step.loss[i], "best": step.best_loss[i]}
            entry |= {name: values[i] for name, values in step.parts.items()} | {"lr": step.lr}
            entry |= {"seconds": round(step.seconds / len(step.rows), 6)}
            if step.encoding_cost is not None:
                entry["encoding_cost"] = step.encoding_cost[i]
            self.history[row].append(entry)

    def _finish_stage(self) -> None:
        self.start = self.best_so_far()
        for i, text in enumerate(self.state.status):
            self.status[i] = self.status[i] if text == "running" else text
        self.best_step = self.state.best_step.tolist()
        self.state, self.stage = None, self.stage + 1

    @torch.no_grad()
    def best_so_far(self) -> GeneratorInputs:
        """The best measured point of every image, in the midst of a stage."""
        return self._lens.decode(self.state.best, self.start).detach()

    @property
    def finished(self) -> bool:
        return self.stage == len(self.recipe.stages)

    def images(self) -> Tensor:
        """What the generator draws from the best points, [B,3,H,W]. Only after the last stage."""
        return self._draw(self.start, -1)

    @torch.no_grad()
    def _draw(self, inputs: GeneratorInputs, stage: int) -> Tensor:
        """[b,3,H,W], no more images at once than the optimisation had memory for."""
        rows = torch.arange(len(inputs)).split(self.chunk or len(inputs))
        return torch.cat([self.generator.synthesis(inputs.index(r), self._noise_mode(stage)).float() for r in rows])

    def _noise_mode(self, stage: int) -> str:
        """What pictures are shown with: random noise is for the optimisation only."""
        mode = self.recipe.stages[stage].noise_mode
        return "const" if mode == "random" else mode

    def rows(self) -> list[int]:
        """The images that are still in the batch."""
        return [] if self.state is None else self.state.rows.tolist()

    @torch.no_grad()
    def current_images(self) -> tuple[list[str], Tensor]:
        """The images still in the batch as they are now: their names and [b,3,H,W]. Only while there are some."""
        rows, state = self.rows(), self.state
        inputs = self._lens.decode(state.variables, self.start.index(rows))
        return [self.keys[row] for row in rows], self._draw(inputs, self.stage)

    def best_parts(self, row: int) -> dict[str, float]:
        """The terms' values at the kept point of the last stage's image `row`, as measured by the loop."""
        kept = (len(self.recipe.stages) - 1, self.best_step[row])
        entry = next(e for e in self.history[row] if (e["stage"], e["step"]) == kept)
        return {name: entry[name] for name in ("loss", *(part["name"] for part in self.recipe.stages[-1].terms))}

    def save(self, path: Path) -> None:
        """Write all that changed, atomically."""
        tensors: dict[str, Tensor] = {}
        meta = {
            "keys": self.keys,
            "seeds": self.seeds,
            "stage": self.stage,
            "status": self.status,
            "best_step": self.best_step,
            "networks": self.networks,
            "digest": self.recipe.digest,
            "fingerprint": self.generator.fingerprint,
        }
        if self.start is not None:
            tensors |= _flatten("start", _inputs_table(self.start))
        if self.state is not None:
            meta["state"] = {"step": self.state.step, "chunk": self.state.chunk, "status": self.state.status}
            tensors |= _flatten("state", {f.name: getattr(self.state, f.name) for f in fields(State)})
        tensors["history"] = torch.frombuffer(bytearray(json.dumps(self.history).encode()), dtype=torch.uint8)
        save_tensors(path, tensors, {"format": FORMAT, "meta": json.dumps(meta)})

    @staticmethod
    def read_keys(path: Path) -> tuple[str, ...]:
        """The images of a saved run. Raises CheckpointError for a file of another kind."""
        _, meta = _read(path)
        with _damage(path):
            return tuple(meta["keys"])

    @staticmethod
    def load(path: Path, generator: Generator, recipe: Recipe, target: Tensor, mask: Tensor | None = None) -> Run:
        """Go on from a saved run, with the same recipe and generator.

        Raises CheckpointError when the file is damaged or belongs to another recipe or generator.
        """
        tensors, meta = _read(path)
        with _damage(path):
            if (meta["digest"], meta["fingerprint"]) != (recipe.digest, generator.fingerprint):
                raise CheckpointError(f"{path}: belongs to another recipe or generator; remove it to start anew")
            device = generator.device
            run = Run(generator, recipe, target, tuple(meta["keys"]), tuple(meta["seeds"]), mask)
            run.stage, run.status, run.best_step = meta["stage"], meta["status"], meta["best_step"]
            run.networks = meta["networks"]
            run.history = json.loads(bytes(tensors["history"].tolist()))
            start = _unflatten("start", tensors, device)
            if start:
                groups = {name: start.get(name) for name in ("noise", "deltas", "features")}
                run.start = GeneratorInputs(start["ws"], **groups)
            if "state" in meta:
                values = {"moments": {}} | _unflatten("state", tensors, device) | meta["state"]
                run.state = State(**values)
        return run


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a saved run of this version")
    with _damage(path):
        return tensors, json.loads(metadata["meta"])


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise CheckpointError(f"{path}: damaged ({error!r}); remove it to start anew") from error


def _inputs_table(inputs: GeneratorInputs) -> dict:
    return {f.name: getattr(inputs, f.name) for f in fields(inputs)}


def _flatten(prefix: str, value: object) -> dict[str, Tensor]:
    """Nested dicts of tensors as one flat dict; names are joined by `|`, anything that is no tensor is left out."""
    if isinstance(value, Tensor):
        return {prefix: value}
    if not isinstance(value, dict):
        return {}
    return {k: v for key, part in value.items() for k, v in _flatten(f"{prefix}|{key}", part).items()}


def _unflatten(prefix: str, tensors: dict[str, Tensor], device: torch.device) -> dict:
    tree: dict = {}
    for name, tensor in tensors.items():
        first, *path = name.split("|")
        if first == prefix:
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            # a copy, since tensors of a mapped file are not aligned, and matrix products then round differently
            node[path[-1]] = tensor.to(device, copy=True)
    return tree
