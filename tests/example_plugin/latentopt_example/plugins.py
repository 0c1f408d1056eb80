"""A space, a term, an initialiser, an operator, an optimiser and a schedule. B images, L = num_ws, C = w_dim."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from latentopt.errors import UsageError
from latentopt.protocols import Generator, Initializer, Operator, Parameterization, Term
from latentopt.types import GeneratorInputs, Variables, View

ROWS = 4


class Coarse(Parameterization):
    """The first `rows` rows of W+, `w` [B,rows,C]: pose and shape are found, finer layers stay as they are."""

    owns = {"ws"}
    recipe = "coarse-grey"

    def __init__(self, generator: Generator, *, rows: int = ROWS) -> None:
        if not 1 <= rows <= generator.num_ws:
            raise UsageError(f"rows must be from 1 to {generator.num_ws}, not {rows}")
        self.rows = rows

    def encode(self, inputs: GeneratorInputs) -> Variables:
        return {"w": inputs.ws[:, : self.rows].detach().clone()}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return inputs.replace(ws=torch.cat([variables["w"], inputs.ws[:, self.rows :]], dim=1))  # [B,L,C]


class Brightness(Term):
    """The squared difference of the mean brightness of image and target."""

    def __init__(self, generator: Generator, target: Tensor) -> None:
        pass

    def __call__(self, view: View) -> Tensor:
        return (view.image - view.target).mean(dim=(1, 2, 3)).square()  # [B]

    def index(self, rows: Tensor) -> Brightness:
        return self


class Near(Initializer):
    """Near the mean of W: `spread` times the noise that the image's seed draws is added to it."""

    def __init__(self, generator: Generator, *, spread: float = 0.1) -> None:
        self.generator, self.spread = generator, spread

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        mean = self.generator.w_avg
        noise = [torch.randn(len(mean), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return GeneratorInputs(self.generator.broadcast(mean + self.spread * torch.stack(noise).to(mean)))


class Grey(Operator):
    """The mean of the three colours: only brightness is measured. [B,3,H,W] -> [B,3,H,W]"""

    def __init__(self, generator: Generator) -> None:
        pass

    def __call__(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True).expand_as(image)


def rmsprop(groups: list[dict], *, alpha: float = 0.99) -> Optimizer:
    """torch's RMSprop."""
    return torch.optim.RMSprop(groups, alpha=alpha)


class Halves:
    """The learning rate is halved `times` times, at equal distances."""

    def __init__(self, *, times: int = 3) -> None:
        self.times = times

    def __call__(self, t: float) -> float:
        return 0.5 ** int(t * (self.times + 1))
