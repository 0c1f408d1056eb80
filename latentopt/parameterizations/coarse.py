"""The coarse rows of W+: what is where in the picture, with the finer rows as they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator, Parameterization
from latentopt.statistics.sampling import w_std
from latentopt.types import GeneratorInputs, Variables


class Coarse(Parameterization):
    """One w for each of the first rows of ws, in standard deviations of an entry of w: `u` [B,rows,C],
    ws = w_avg + sigma u. So a rate means the same for every generator. The other rows are those of the inputs.

    share   of all rows that are free, rounded up: DragGAN moves the first 6 of 18
    rows    their number, in its place
    """

    owns = {"ws"}
    exact = True
    recipe = "i2s"
    examples = ({}, {"rows": 2})

    def __init__(self, generator: Generator, *, share: float = 0.333, rows: int | None = None) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"w+coarse: share is a part of the rows above 0 and at most 1, not {share}")
        if rows is not None and not 1 <= rows <= generator.num_ws:
            raise UsageError(f"w+coarse: rows must be from 1 to {generator.num_ws}, not {rows}")
        self.rows = rows or math.ceil(share * generator.num_ws)
        self.mean, self.sigma = generator.w_avg, w_std(generator) / generator.w_dim**0.5

    def encode(self, inputs: GeneratorInputs) -> Variables:
        return {"u": (inputs.ws[:, : self.rows].detach() - self.mean) / self.sigma}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        moved: Tensor = self.mean + self.sigma * variables["u"]
        return inputs.replace(ws=torch.cat([moved, inputs.ws[:, self.rows :]], dim=1))
