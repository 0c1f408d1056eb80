"""All that changes while a stage runs, as one value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.problem import Problem
from latentopt.types import Variables

RUNNING = "running"


@dataclass
class State:
    """All that changes. `rows` [b] are the images still in the batch; `variables` and `moments` hold theirs, in order.

    `best` holds every image's best measured point, `safe` [b] the live ones' last finite point; `status` is `running`, or
    how the image ended.
    """

    step: int
    rows: Tensor
    variables: Variables
    moments: dict[str, dict[str, Tensor]]
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

    def keep(self, kept: Tensor) -> None:
        """Drop the rows of the live tensors where `kept` [b] is false."""
        picked = kept.nonzero()[:, 0]
        size = len(self.rows)
        for name in ("rows", "rate", "retries", "anchor", "anchor_step"):
            setattr(self, name, getattr(self, name)[picked])
        self.variables = {name: v[picked] for name, v in self.variables.items()}
        self.safe = {name: v[picked] for name, v in self.safe.items()}
        self.moments = {
            name: {key: v[picked] if v.ndim and len(v) == size else v for key, v in moments.items()}
            for name, moments in self.moments.items()
        }
