"""Low-rank changes of the generator's weights: a small delta for each convolution, as LoRA's for language models."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.generators.tunable import choose_weights
from latentopt.parameterizations.weights import check_weight, given_deltas, with_deltas
from latentopt.protocols import Generator, Parameterization
from latentopt.statistics.streams import named_stream
from latentopt.types import GeneratorInputs, Variables


class LowRank(Parameterization):
    """A delta [O,I,k,k] of rank r at most: `<weight>/up` [B,O,r] times `<weight>/down` [B,r,I*k*k] (Hu et al. 2021).

    layers   which weights (`choose_weights`); those with fewer than two dimensions, such as biases, are left out
    rank     r; smaller where a weight's own sides are
    l2       weight of the sum of squares of the deltas in the loss
    shared   one delta for all images of the batch; per-image deltas in the inputs are encoded by their mean

    Without a delta in the inputs up starts at 0 and down as noise of standard deviation 1/sqrt(I*k*k), the same for all
    images. A given delta is encoded by its truncated singular value decomposition: exact where its rank is at most r.
    """

    owns = {"deltas"}
    shares = "shared"
    rank = "rank"
    exact = True  # every delta of at most that rank
    examples = (
        {},
        {"rank": 2, "layers": "convs:2", "l2": 0.1},
        {"layers": "all"},
        {"shared": True, "l2": 0.1},
    )

    def __init__(
        self,
        generator: Generator,
        *,
        layers: str = "convs",
        rank: int = 4,
        l2: float = 0.0,
        shared: bool = False,
    ) -> None:
        check_weight("l2", l2)
        if rank < 1:
            raise UsageError(f"rank must be at least 1, not {rank}")
        chosen = {name: generator.tunable[name] for name in choose_weights(generator, layers)}
        self.shapes = {name: shape for name, shape in chosen.items() if len(shape) >= 2}
        if not self.shapes:
            raise UsageError(
                f"layers {layers!r} chooses no matrix or convolution, so nothing of low rank: {', '.join(chosen)}"
            )
        self.highest, self.l2, self.shared = rank, l2, shared

    def encode(self, inputs: GeneratorInputs) -> Variables:
        given = given_deltas(inputs, self.shapes, self.shared)
        rows = 1 if self.shared else len(inputs)
        variables = {}
        for name, shape in self.shapes.items():
            delta = given.get(name, inputs.ws.new_zeros(rows, *shape))
            variables[f"{name}/up"], variables[f"{name}/down"] = self._factors(name, delta.flatten(2))
        return variables

    def _factors(self, name: str, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Up [B,O,r] and down [B,r,K] of delta [B,O,K]; a delta of zero gets rows to grow along."""
        up, size, down = torch.linalg.svd(delta.float(), full_matrices=False)
        r = min(self.highest, size.shape[1])
        up, down = (up[..., :r] * size[:, None, :r]).to(delta), down[:, :r].to(delta)
        rng = named_stream(name)
        start = torch.randn(r, delta.shape[2], generator=rng).to(delta) / delta.shape[2] ** 0.5  # [r,K]
        zero = (delta == 0).all(dim=2).all(dim=1)[:, None, None]
        return up, torch.where(zero, start, down)

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return with_deltas(inputs, {name: self._delta(variables, name) for name in self.shapes})

    def _delta(self, variables: Variables, name: str) -> Tensor:
        delta = variables[f"{name}/up"] @ variables[f"{name}/down"]  # [B,O,K]
        return delta.reshape(-1, *self.shapes[name])

    def penalty(self, variables: Variables) -> Tensor | None:
        """`l2 * sum delta^2`, from the factors: ||U D||^2 = <U'U, D D'>. [B]"""
        if self.l2 == 0:
            return None
        total = []
        for name in self.shapes:
            up, down = variables[f"{name}/up"], variables[f"{name}/down"]
            total.append(((up.mT @ up) * (down @ down.mT)).sum(dim=(1, 2)))
        return self.l2 * torch.stack(total).sum(dim=0)
