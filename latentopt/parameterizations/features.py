"""The feature space: what is added to one activation of the generator."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.parameterizations.weights import check_weight
from latentopt.protocols import Generator, Parameterization
from latentopt.registry import nearest
from latentopt.statistics.activations import featured, finest, shapes_of
from latentopt.types import GeneratorInputs, Variables


class F(Parameterization):
    """One variable `residual` [B,c,h,w], added to the activation `layer`; 0 where the inputs carry none.

    layer  a name of the generator's activations; without it, the finest of at most `size` pixels on its longer side, or
           the coarsest where all are larger
    size   16 by default, as in BDInvert
    l2     weight of the mean square of the residual in the loss
    ball   bound of the mean absolute value of the residual (an l1 ball): it is pulled back to the nearest such

    F/W+ of BDInvert (Kang et al. 2021) is `optimize = ["f", "w+"]`. There the features of a layer take the place of
    what the coarser rows of w draw; here they are added to it, so that an edit of these rows moves them along. The
    balls are those of ILO (Daras et al. 2021).
    """

    owns = {"residuals"}
    exact = True
    recipe = "bdinvert"
    examples = ({}, {"size": 8, "l2": 0.1}, {"layer": "b8.conv1", "ball": 0.3})

    def __init__(
        self,
        generator: Generator,
        *,
        layer: str | None = None,
        size: int | None = None,
        l2: float = 0.0,
        ball: float | None = None,
    ) -> None:
        check_weight("l2", l2)
        if ball is not None:
            check_weight("ball", ball)
        if layer is not None and size is not None:
            raise UsageError("f: either a layer or a size, not both")
        if size is not None and size < 1:
            raise UsageError(f"f: size must be at least 1 pixel, not {size}")
        if layer is not None and layer not in generator.activations:
            raise UsageError(f"f: no activation {layer!r}{nearest(layer, list(generator.activations))}")
        shapes = shapes_of(generator, [layer] if layer is not None else featured(generator))
        self.layer = layer if layer is not None else finest(shapes, 16 if size is None else size)
        self.shape, self.l2, self.ball = shapes[self.layer], l2, ball

    def encode(self, inputs: GeneratorInputs) -> Variables:
        given = (inputs.residuals or {}).get(self.layer)
        if given is None:
            return {"residual": inputs.ws.new_zeros(len(inputs), *self.shape)}
        return {"residual": given.detach().expand(len(inputs), *self.shape).clone()}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return inputs.replace(residuals={**(inputs.residuals or {}), self.layer: variables["residual"]})

    def project_(self, variables: Variables) -> None:
        if self.ball is not None:
            residual = variables["residual"]
            residual.copy_(nearest_in_l1(residual.flatten(1), self.ball * residual[0].numel()).reshape(residual.shape))

    def penalty(self, variables: Variables) -> Tensor | None:
        return None if self.l2 == 0 else self.l2 * variables["residual"].square().mean(dim=(1, 2, 3))


def nearest_in_l1(x: Tensor, radius: float) -> Tensor:
    """Rows of x [B,N] brought to the nearest point whose absolute values sum to at most `radius`.

    Source: Duchi et al. 2008, "Efficient Projections onto the l1-Ball", figure 1.
    """
    size = x.abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(dim=1) - radius) / torch.arange(1, x.shape[1] + 1, device=x.device)
    count = (ordered > excess).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = excess.gather(1, count - 1)
    inside = size.sum(dim=1, keepdim=True) <= radius
    return torch.where(inside, x, x.sign() * (size - threshold).clamp_min(0))
