"""All that changes while a stage runs, as one value, and what one step measures of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentopt.loop.problem import Problem
from latentopt.protocols import IMAGES, Memory
from latentopt.recipe.stage import Stop
from latentopt.types import Variables

RUNNING = "running"
UNSTEADY = "unsteady: no finite loss in"  # how the end of an image begins in which that happened


@dataclass(frozen=True)
class Measurement:
    """What one step found, before the update. Vectors [b] are over the live images.

    loss, parts: of each image; gradients: like the variables. judged: the loss that an image is judged by, the mean of
    all where they share variables; finite: whether that and its gradient are; hopeless: whether not even the start is.
    clean: whether no jitter disturbed it, so that it counts as a best point. remembered: what terms remember anew.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    gradients: Variables
    judged: Tensor
    finite: Tensor
    hopeless: Tensor
    clean: bool
    remembered: Variables

    def of(self, rows: Tensor, state: State) -> Measurement:
        """What was found of the images where `rows` [b] is true."""
        if rows.all():
            return self
        at = rows.nonzero()[:, 0]
        return replace(
            self,
            loss=self.loss[at],
            parts={name: part[at] for name, part in self.parts.items()},
            gradients={name: gradient[state.own(name, at)] for name, gradient in self.gradients.items()},
            judged=self.judged[at],
            finite=self.finite[at],
            hopeless=self.hopeless[at],
            remembered={name: x[at] for name, x in self.remembered.items()},
        )

    def part(self, name: str) -> Tensor:
        """A term's values, or `loss`: what the image is judged by."""
        return self.judged if name == "loss" else self.parts[name]


@dataclass
class State:
    """All that changes. `rows` [b] are the images still in the batch; `variables` and `moments` hold theirs, in order.

    `best` holds every image's best measured point, `safe` [b] the live ones' last finite point, for as long as one of
    them has no best point; `status` is `running`, or how the image ended. A variable whose first dimension is 1 belongs
    to all images: they then have one best point and one end, judged by the mean of their losses. `remembered` is what
    terms remember of every image, `term/entry`.
    """

    step: int
    rows: Tensor
    variables: Variables
    moments: Memory  # what the optimiser remembers
    rate: Tensor  # [b] factor on the learning rate, halved after a step to a non-finite loss
    retries: Tensor  # [b]
    anchor: Tensor  # [b] loss that patience measures against
    anchor_step: Tensor  # [b]
    safe: Variables
    best: Variables
    best_loss: Tensor  # [B]
    best_step: Tensor  # [B]
    status: list[str]
    chunk: int
    remembered: Variables = field(default_factory=dict)  # [B,...]

    @staticmethod
    def initial(problem: Problem) -> State:
        """The start, expressed in the lens's variables and pulled into what the space allows."""
        variables = {name: v.detach().clone() for name, v in problem.lens.encode(problem.start).items()}
        with torch.no_grad():
            problem.lens.project_(variables)
        b, like = len(problem.target), problem.target
        rows = torch.arange(b, device=like.device)
        return State(
            step=0,
            rows=rows,
            variables=variables,
            moments={},
            rate=like.new_ones(b),
            retries=torch.zeros_like(rows),
            anchor=like.new_full((b,), math.inf),
            anchor_step=torch.zeros_like(rows),
            safe={name: v.clone() for name, v in variables.items()},
            best={name: v.clone() for name, v in variables.items()},
            best_loss=like.new_full((b,), math.inf),
            best_step=torch.zeros_like(rows),
            status=[RUNNING] * b,
            chunk=min(b, problem.stage.batch),
        )

    @property
    def shared(self) -> frozenset[str]:
        """The variables that all images have in common."""
        return frozenset(name for name in self.best if self.is_shared(name))

    def is_shared(self, name: str) -> bool:
        """Whether all images have this variable in common; IMAGES: all variables."""
        if name == IMAGES:
            return all(map(self.is_shared, self.best))
        return len(self.best[name]) == 1 < len(self.best_loss)

    def own(self, name: str, rows: Tensor) -> Tensor:
        """Where the variable `name` holds what belongs to `rows` (numbers, or a mask that is all or nothing if
        shared).
        """
        if not self.is_shared(name):
            return rows
        return rows[:1] if rows.dtype == torch.bool else torch.zeros_like(rows[:1])

    def note(self, measured: Measurement, keep: str, stop: Stop | None) -> None:
        """Take note of a measurement: each image's best point (its last, where `keep` says so), its failures, and the
        loss that patience measures against. What jitter disturbed is no best point.
        """
        if measured.clean:
            better = measured.finite & (measured.judged < self.best_loss[self.rows])
            self._record_best(measured.finite if keep == "last" else better, measured.judged)
        self._remember(measured.remembered, measured.finite)
        self.retries = self.retries + ~measured.finite
        if stop is not None and stop.patience is not None and measured.clean:
            fell = measured.finite & (measured.judged < self.anchor * (1 - stop.tolerance))
            self.anchor = torch.where(fell, measured.judged, self.anchor)
            self.anchor_step = torch.where(fell, self.step, self.anchor_step)

    def remembered_of(self, rows: Tensor) -> Variables:
        """What terms remember of the live images in `rows`."""
        return {name: x if len(rows) == len(x) else x[self.rows[rows]] for name, x in self.remembered.items()}

    def _remember(self, changed: Variables, finite: Tensor) -> None:
        """What terms remember anew, but for images whose measurement does not count."""
        for name, x in changed.items():
            old = self.remembered.setdefault(name, x.new_zeros(len(self.best_loss), *x.shape[1:]))
            old[self.rows[finite]] = x[finite]

    def _record_best(self, better: Tensor, loss: Tensor) -> None:
        picked = self.rows[better]
        self.best_loss[picked], self.best_step[picked] = loss[better], self.step
        for name, v in self.variables.items():
            copy_rows(v, self.own(name, better.nonzero()[:, 0]), self.best[name], self.own(name, picked))

    def keep(self, kept: Tensor) -> None:
        """Drop the rows of the live tensors where `kept` [b] is false."""
        if kept.all():
            return
        picked = kept.nonzero()[:, 0]
        for name in ("rows", "rate", "retries", "anchor", "anchor_step"):
            setattr(self, name, getattr(self, name)[picked])
        at = {name: self.own(name, picked) for name in (*self.variables, *self.moments)}
        self.moments = {
            name: {k: v[at[name]] if self.has_rows(name, v) else v for k, v in moments.items()}
            for name, moments in self.moments.items()
        }
        self.variables = {name: v[at[name]] for name, v in self.variables.items()}
        self.safe = {name: v[at[name]] for name, v in self.safe.items()}

    def forget(self, bad: Tensor) -> None:
        """Clear what the optimiser remembers of the images where `bad` [b] is true."""
        for name, moments in self.moments.items():
            for moment in moments.values():
                if self.has_rows(name, moment):
                    moment[self.own(name, bad)] = 0

    def has_rows(self, name: str, moment: Tensor) -> bool:
        """Whether what is remembered of a variable goes with its images; a step count does not."""
        return name == IMAGES or (moment.ndim > 0 and len(moment) == len(self.variables[name]))


def copy_rows(source: Tensor, rows: Tensor, target: Tensor, at: Tensor) -> None:
    """`target[at] = source[rows]`, in one go where that is all of both; rows and places are in order."""
    if len(rows) == len(source) == len(target):
        target.copy_(source)
    else:
        target[at] = source[rows]


def over(rows: Tensor, like: Tensor) -> Tensor:
    """[b] in a shape that multiplies [b,...]."""
    return rows.reshape(-1, *[1] * (like.ndim - 1))
