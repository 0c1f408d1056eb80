"""Normally distributed weights of a generator: theta = mu + sigma * epsilon, mu being the generator's own weights.

Source: WRanGAN (Algorithm 2, section 3.4): the last N convolutions are randomised, those to RGB left out. Difference
from the paper: sigma is trained as a product of factors, for all of a convolution, for each of its output and of its
input channels, and for each weight. One epsilon a step says next to nothing about one weight (the mean of sigma's
gradient was measured at 0.002 to 0.02 of its spread), so that sigma per weight alone takes the paper's 200,000 steps;
the factors sum the gradients of what they cover, and find the level in hundreds.

The adversarial loss has no term that rewards spread, so that its optimum is sigma = 0 wherever the images depend on the
weight; the paper's training is over long before, one of factors is not. `keep_level` therefore holds the mean of
log sigma over all weights, up to a constant the entropy of theta, and lets only its distribution be learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from latentopt.errors import UsageError
from latentopt.training.building import TrainedGenerator

SMALL = 1e-3  # below it, a standard deviation counts as small (table 6)


class RandomizedWeights(nn.Module):
    """The standard deviations of the weights `names` of a generator, `init` > 0 at the start.

    sigma = weights * exp(level + outputs + inputs), in units of the stored weight, before the gain of the equalised
    learning rate. Its sign means nothing, for epsilon is symmetric; it changes freely in training. With `keep_level`,
    the mean of `level + outputs + inputs` over all weights stays at log(init), and `weights` have root mean square 1.
    """

    def __init__(
        self, generator: TrainedGenerator, names: Sequence[str], init: float = 1.0, keep_level: bool = False
    ) -> None:
        super().__init__()
        self.names, self.init, self.keep_level, device = tuple(names), init, keep_level, generator.device
        shapes = [generator.get_parameter(name).shape for name in self.names]  # [O,I,k,k]
        self.weights = nn.ParameterList(torch.ones(shape, device=device) for shape in shapes)
        self.level = nn.ParameterList(torch.tensor(math.log(init), device=device) for _ in shapes)
        self.outputs = nn.ParameterList(torch.zeros(shape[0], 1, 1, 1, device=device) for shape in shapes)
        self.inputs = nn.ParameterList(torch.zeros(1, shape[1], 1, 1, device=device) for shape in shapes)

    @torch.no_grad()
    def begin_with(self, magnitudes: Mapping[str, Tensor]) -> None:
        """Take |sigma| of each weight from elsewhere; with `keep_level`, up to the level that is held.

        Raises UsageError where they are of other weights, or of another shape.
        """
        for i, name in enumerate(self.names):
            found = magnitudes.get(name)
            if found is None or found.shape != self.weights[i].shape or not (found > 0).any():
                raise UsageError(f"the sigma to begin with has none for {name} of {list(self.weights[i].shape)}")
            size = found.square().mean().sqrt()
            self.weights[i].copy_(found / size)
            self.level[i].copy_(size.log())

    @property
    def sigma(self) -> list[Tensor]:
        """Signed, [O,I,k,k] each."""
        weights: list[Tensor] = list(self.weights)
        logs = [sum(factors) for factors in zip(self.level, self.outputs, self.inputs, strict=True)]  # [O,I,1,1]
        if self.keep_level and weights:
            sizes = [weight.numel() for weight in weights]
            mean = sum(log.mean() * size for log, size in zip(logs, sizes, strict=True)) / sum(sizes)
            logs = [log - mean + math.log(self.init) for log in logs]
            weights = [weight / weight.square().mean().sqrt() for weight in weights]
        return [weight * log.exp() for weight, log in zip(weights, logs, strict=True)]

    def draw(self, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`sigma * epsilon` of a fresh epsilon ~ N(0, 1), as deltas that all images share: {weight: [1,*shape]}."""
        drawn = [(s * torch.randn(s.shape, generator=rng, device=s.device))[None] for s in self.sigma]
        return dict(zip(self.names, drawn, strict=True))

    def magnitudes(self) -> dict[str, Tensor]:
        """|sigma| of each weight."""
        return {name: sigma.detach().abs() for name, sigma in zip(self.names, self.sigma, strict=True)}

    def figures(self) -> dict[str, dict[str, float]]:
        """Quartiles and largest value of |sigma| in each weight, and the share of small ones (figure 8, table 6)."""
        return {name: _figures(sigma) for name, sigma in self.magnitudes().items()}


def _figures(sigma: Tensor) -> dict[str, float]:
    values = sigma.flatten().sort().values
    at = {"q25": 0.25, "median": 0.5, "q75": 0.75, "largest": 1.0}
    found = {name: float(values[round(q * (len(values) - 1))]) for name, q in at.items()}
    return found | {"small": float((values < SMALL).float().mean())}


def last_convolutions(generator: TrainedGenerator, n: int) -> tuple[str, ...]:
    """The weights of the last `n` convolutions, those to RGB left out, from coarse to fine.

    Raises UsageError when the generator has fewer.
    """
    names = list(generator.convolutions.values())
    if not 1 <= n <= len(names):
        raise UsageError(f"{n} convolutions cannot be randomised: this generator has {len(names)}")
    return tuple(names[-n:])
