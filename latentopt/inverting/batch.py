"""A batch of images on its way through the stages of a recipe, which can be saved after any step and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentopt.devices import Profile
from latentopt.inverting.saved_run import damage, read_saved, start_of, state_of, write_saved
from latentopt.inverting.saved_state import DamagedState, check_fits, check_progress, parse_history
from latentopt.loop.building import build_problem
from latentopt.loop.loop import Step, minimise
from latentopt.loop.problem import Problem
from latentopt.loop.refining import make_refiner, refine
from latentopt.loop.state import RUNNING, UNSTEADY, State
from latentopt.protocols import Generator, Operator, Parameterization, Refiner
from latentopt.recipe.recipe import Recipe
from latentopt.types import GeneratorInputs
from latentopt.watching.interruption import Interrupted, never, released


@dataclass
class Batch:
    """Images target [B,3,H,W], named by `keys`, and how far the recipe has got with them.

    Iterate `steps()` to work; between two records the run may be saved with `save` and gone on with after `load`.
    """

    generator: Generator
    recipe: Recipe
    target: Tensor
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    mask: Tensor | None = None
    measured: Tensor | None = None  # [B,...], all that is known of the images; `target` shows it
    operator: Operator | None = None  # in place of those of the stages
    stage: int = 0
    inputs: GeneratorInputs | None = None
    state: State | None = None
    status: list[str] = field(default_factory=list)
    history: list[list[dict]] = field(default_factory=list)
    chunk: int | None = None  # images drawn at once, where there is no memory for all
    best_step: list[int] = field(default_factory=list)  # of the last finished stage
    networks: dict[str, str] = field(default_factory=dict)  # what the terms of the last stage measured with
    profile: Profile = field(default_factory=lambda: Profile(on=False), repr=False)
    _lens: Parameterization | None = field(default=None, repr=False)
    _problem: Problem | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.status = self.status or ["running"] * len(self.keys)
        self.history = self.history or [[] for _ in self.keys]

    def steps(self, interrupted: Interrupted = never) -> Iterator[tuple[int, Step]]:
        """Do the work: (stage, record) after each step. Images that fail stay behind; the others go on.

        Where `interrupted` is an Interruption that is held, it is released while a stage is made ready.
        """
        while self.stage < len(self.recipe.stages):
            with self.profile.part("networks and start"), released(interrupted):
                problem, self._problem = self._problem or self._begin(), None
            self._lens, self.networks = problem.lens, problem.objective.networks
            if self.recipe.stages[self.stage].refine is not None:
                yield self._refine(problem)
                continue
            if self.state is None:
                self.inputs = problem.start
                self.state = State.initial(problem)
                self.state.chunk = min(self.state.chunk, self.chunk or self.state.chunk)
                failed = [text.startswith("failed") for text in self.status]
                self.state.keep(~torch.tensor(failed, device=self.target.device))
            else:  # a file has them in another order, and sums over them would round differently
                names = problem.lens.encode(problem.start)
                self.state.variables = {name: self.state.variables[name] for name in names}
            for step in minimise(problem, self.state):
                self.chunk = self.state.chunk
                self._record(step)
                yield self.stage, step
            self._finish_stage(self.state)

    def prepare(self) -> None:
        """Make the next stage ready now, rather than with its first step: what it refuses is raised here."""
        self._problem = self._problem or self._begin()

    def _begin(self) -> Problem:
        """The stage that comes next, or is at work, as a problem."""
        stage, begun = self.recipe.stages[self.stage], self.state is not None
        return build_problem(
            self.generator,
            stage,
            self.target,
            self.seeds,
            self.mask,
            self.inputs,
            begun,
            self.profile,
            self.measured,
            self.operator,
        )

    @cached_property
    def refiner(self) -> Refiner | None:
        """The refiner of the last stage, if it refines."""
        return make_refiner(self.generator, self.recipe.stages[-1])

    def _refine(self, problem: Problem) -> tuple[int, Step]:
        """The stage that refines, in one go; images that failed before stay behind."""
        assert self.refiner is not None
        self.inputs, step = refine(problem, self.refiner, self.chunk)
        lost = {row for row, text in enumerate(self.status) if text.startswith("failed")}
        self._record(step)
        self.status = [
            before if row in lost or not text.startswith("failed") else text
            for row, (before, text) in enumerate(zip(self.status, step.status, strict=True))
        ]
        self.best_step, self.stage = [0] * len(self.keys), self.stage + 1
        return self.stage - 1, step

    def _record(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            entry = {"stage": self.stage, "step": step.step, "loss": step.loss[i], "best": step.best_loss[i]}
            entry |= {name: values[i] for name, values in step.parts.items()} | {"lr": step.lr}
            entry |= {"seconds": round(step.seconds / len(step.rows), 6)}
            if step.encoding_cost is not None:
                entry["encoding_cost"] = step.encoding_cost[i]
            self.history[row].append(entry)

    def _finish_stage(self, state: State) -> None:
        self.inputs = self.best_so_far()
        for i, text in enumerate(state.status):
            if text != RUNNING:
                earlier = [self.status[i]] if UNSTEADY in self.status[i] and UNSTEADY not in text else []
                self.status[i] = "; ".join([text, *earlier]) if not text.startswith("failed") else text
        self.best_step = state.best_step.tolist()
        self.state, self.stage = None, self.stage + 1

    @property
    def _at_work(self) -> tuple[Parameterization, State, GeneratorInputs]:
        """The lens, the state and the start of the stage at work. Raises ValueError between two stages."""
        if self._lens is None or self.state is None or self.inputs is None:
            raise ValueError("no stage is at work")
        return self._lens, self.state, self.inputs

    @torch.no_grad()
    def best_so_far(self) -> GeneratorInputs:
        """The best measured point of every image, in the midst of a stage."""
        lens, state, start = self._at_work
        return lens.decode(state.best, start).detach()

    def remembered(self, name: str) -> Tensor:
        """What a term of the stage at work remembers of every image (`term/entry`), [B,...]."""
        return self._at_work[1].remembered[name]

    @property
    def finished(self) -> bool:
        return self.stage == len(self.recipe.stages)

    @property
    def result(self) -> GeneratorInputs:
        """The best points, after the last stage; before it, what the stage at work started from."""
        if self.inputs is None:
            raise ValueError("the batch has not begun")
        return self.inputs

    def images(self) -> Tensor:
        """What the generator draws from the best points, [B,3,H,W]. Only after the last stage."""
        return self._draw(self.result, -1)

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
        lens, state, start = self._at_work
        rows = state.rows.tolist()
        inputs = lens.decode(state.variables, start.index(rows))
        return [self.keys[row] for row in rows], self._draw(inputs, self.stage)

    def best_parts(self, row: int) -> dict[str, float]:
        """The terms' values at the kept point of the last stage's image `row`, as measured by the loop."""
        kept = (len(self.recipe.stages) - 1, self.best_step[row])
        entry = next(e for e in self.history[row] if (e["stage"], e["step"]) == kept)
        return {name: entry[name] for name in ("loss", *(part["name"] for part in self.recipe.stages[-1].terms))}

    def save(self, path: Path) -> None:
        """Write all that changed, atomically."""
        meta = {
            "keys": self.keys,
            "seeds": self.seeds,
            "stage": self.stage,
            "status": self.status,
            "best_step": self.best_step,
            "chunk": self.chunk,
            "networks": self.networks,
            "digest": self.recipe.digest,
            "fingerprint": self.generator.fingerprint,
        }
        write_saved(path, meta, self.inputs, self.state, self.history)

    @staticmethod
    def read_keys(path: Path) -> tuple[str, ...]:
        """The images of a saved run. Raises DamagedState for a file of another kind."""
        _, meta = read_saved(path)
        return tuple(meta["keys"])

    @staticmethod
    def load(
        path: Path,
        generator: Generator,
        recipe: Recipe,
        target: Tensor,
        mask: Tensor | None = None,
        measured: Tensor | None = None,
        operator: Operator | None = None,
    ) -> Batch:
        """Go on from a saved run, with the same recipe and generator.

        Raises DamagedState when the file is damaged or belongs to another recipe or generator.
        """
        tensors, meta = read_saved(path)
        if (meta["digest"], meta["fingerprint"]) != (recipe.digest, generator.fingerprint):
            raise DamagedState(f"{path}: belongs to another recipe or generator")
        images, keys, seeds = len(target), tuple(meta["keys"]), tuple(meta["seeds"])
        batch = Batch(generator, recipe, target, keys, seeds, mask, measured, operator)
        with damage(path):
            if images != len(meta["keys"]):
                raise ValueError(f"of {len(meta['keys'])} images, not {images}")
            batch.stage, batch.status, batch.best_step = meta["stage"], meta["status"], meta["best_step"]
            batch.networks, batch.chunk = meta["networks"], meta.get("chunk")
            batch.history = parse_history(tensors["history"], images)
            batch.inputs = start_of(tensors, meta, generator, images)
            check_progress(meta, batch.history, recipe)
            batch.state = state_of(tensors, meta, generator.device, images)
        if batch.state is not None:
            batch._problem = batch._begin()
            with damage(path):
                check_fits(batch.state, batch._problem)
        return batch
