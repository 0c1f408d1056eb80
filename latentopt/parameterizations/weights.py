"""Changed generator weights as variables: the lens behind pivotal tuning (PTI) and the simple weight tune.

The variable is the delta, not the weight: zero is the untouched generator, and every image may have its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.generators.tunable import choose_weights
from latentopt.parameterizations.metric import WEIGHT_DAMPING, KroneckerWhitening, MetricOptions
from latentopt.protocols import Generator, Parameterization
from latentopt.types import GeneratorInputs, Variables


class Weights(Parameterization):
    """One variable [B,*shape] for each chosen weight: the delta itself, 0 where the inputs carry none. Exact.

    layers   which weights: all, convs, convs:6 or globs over their names (`choose_weights`)
    l2       weight of the sum of squares of the variables in the loss
    shared   one delta [1,*shape] for all images of the batch: several pictures of one subject; per-image deltas in the
             inputs are encoded by their mean
    metric   the variables are U, delta = P U Q (`latentopt.parameterizations.metric`, which has the other options). To
             first order l2 * sum U^2 is then l2 times the mean squared change of the generator's own pictures in the
             image distance: a locality term that draws nothing

    The simple weight tune that WRanGAN is compared with (section 3.1) has a low l2. PTI (Roich et al. 2021) tunes all
    weights without it, the mapping network's too; here that one stays as it is, since it has no part in drawing
    a given ws.
    """

    owns = {"deltas"}
    reads = {"metric_file": "metric"}
    reads_if = {"metric_file": ("metric",)}
    shares = "shared"
    exact = True
    examples = (
        {},
        {"layers": "convs:2", "l2": 0.1},
        {"shared": True, "l2": 0.1},
        {"metric": True},
        {"metric": True, "layers": "convs:2", "l2": 0.1, "shared": True},
    )

    def __init__(
        self,
        generator: Generator,
        *,
        layers: str = "all",
        l2: float = 0.0,
        shared: bool = False,
        metric: bool | None = None,
        metric_net: str | None = None,
        metric_size: int | None = None,
        metric_file: str | None = None,
        damping: float | None = None,
    ) -> None:
        check_weight("l2", l2)
        names = choose_weights(generator, layers)
        self.shapes = {name: generator.tunable[name] for name in names}
        self.l2, self.shared = l2, shared
        self.whitening: dict[str, KroneckerWhitening] = {}
        options = MetricOptions(metric_net, metric_size, metric_file, damping, WEIGHT_DAMPING)
        if metric:
            found = options.find(generator, names)
            self.distance = found.distance
            self.whitening = {
                name: KroneckerWhitening.of(found, name, generator.weight(name), options.damping) for name in names
            }

    def encode(self, inputs: GeneratorInputs) -> Variables:
        given = given_deltas(inputs, self.shapes, self.shared)
        rows = 1 if self.shared else len(inputs)
        given |= {name: self.whitening[name].into(delta) for name, delta in given.items() if name in self.whitening}
        return {name: given.get(name, inputs.ws.new_zeros(rows, *shape)) for name, shape in self.shapes.items()}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        moved = {name: whitening.out(variables[name]) for name, whitening in self.whitening.items()}
        return with_deltas(inputs, {**variables, **moved})

    def penalty(self, variables: Variables) -> Tensor | None:
        return None if self.l2 == 0 else self.l2 * sum_of_squares(variables.values())


def check_weight(name: str, value: float) -> None:
    """Raise UsageError for the weight of a penalty that is negative or not a number."""
    if not 0 <= value < math.inf:
        raise UsageError(f"{name} must be a number of at least 0, not {value}")


def given_deltas(inputs: GeneratorInputs, names: Iterable[str], shared: bool) -> dict[str, Tensor]:
    """Copies of the deltas among `names` that `inputs` carry: [B,*shape], or their mean [1,*shape] when `shared`."""
    found = {}
    for name in names:
        delta = (inputs.deltas or {}).get(name)
        if delta is not None:
            delta = delta.detach()
            found[name] = delta.mean(dim=0, keepdim=True) if shared else _repeated(delta, len(inputs))
    return found


def _repeated(delta: Tensor, batch: int) -> Tensor:
    return delta.expand(batch, *delta.shape[1:]).clone()


def with_deltas(inputs: GeneratorInputs, own: Mapping[str, Tensor]) -> GeneratorInputs:
    """`inputs` whose deltas of the names in `own` are replaced; the others stay."""
    return inputs.replace(deltas={**(inputs.deltas or {}), **own})


def sum_of_squares(tensors: Iterable[Tensor]) -> Tensor:
    """Over all entries of tensors [B,...], for each image: [B] ([1] for a shared delta)."""
    return torch.stack([x.reshape(len(x), -1).square().sum(dim=1) for x in tensors]).sum(dim=0)
