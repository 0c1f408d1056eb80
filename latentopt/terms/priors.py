"""Terms that ask nothing of the image: penalties in P-norm, the noise regulariser, and the priors of BRGM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.protocols import Generator, Term
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.sampling import w_std
from latentopt.types import View


class PNormPenalty(Term):
    """Mean square of the P-norm+ code over layers and components: about 1 for the generator's own samples.

    The released code of the P-norm paper uses weight 0.001. `stats` is a statistics file, found by name when absent.
    """

    reads = {"stats": "p-norm"}
    examples = ({}, {"std_floor": 0.1})
    sees_image = False

    def __init__(
        self, generator: Generator, target: Tensor, *, std_floor: float = 0.0, stats: str | None = None
    ) -> None:
        pnorm = given_or_found(PNORM, generator, stats)[0]
        self.basis = pnorm.basis(std_floor=std_floor, device=generator.device)

    def index(self, rows: Tensor) -> PNormPenalty:
        return self

    def __call__(self, view: View) -> Tensor:
        return self.basis.whiten(view.inputs.ws).square().mean(dim=(1, 2))


class RowsSpread(PNormPenalty):
    """Variance over the rows of the P-norm+ code, summed over its components: 0 for a code of W, [B].

    It measures the rows' distance from their mean in the unit of the l2 of `p-norm+`, so that both together are the
    negative logarithm of a Gaussian density, with a spread of its own for what is common to the rows. Source: ours.
    """

    def index(self, rows: Tensor) -> RowsSpread:
        return self

    def __call__(self, view: View) -> Tensor:
        return self.basis.whiten(view.inputs.ws).var(dim=1, correction=0).sum(dim=1)


class NoiseAutocorrelation(Term):
    """Squared autocorrelation of each noise map at a shift of one pixel, over a pyramid of 2x2 means down to 8x8.

    Source: Karras et al. 2020, appendix D, with the plain means that NVIDIA's projector takes between the levels; the
    weight is 1e5.
    """

    sees_image = False

    def __init__(self, generator: Generator, target: Tensor) -> None:
        pass

    def index(self, rows: Tensor) -> NoiseAutocorrelation:
        return self

    def __call__(self, view: View) -> Tensor:
        total = view.image.new_zeros(len(view.image))
        for noise in (view.inputs.noise or {}).values():
            while True:
                for dim in (2, 3):
                    total = total + (noise * torch.roll(noise, 1, dim)).mean(dim=(1, 2, 3)).square()
                if min(noise.shape[2:]) <= 8:
                    break
                noise = F.avg_pool2d(noise, 2)
        return total


class WPrior(Term):
    """Mean over the rows of ws of their squared distance from the mean of w, in radii of the cloud of w.

    It is about 1 for the generator's own samples. Source: BRGM (Marinescu et al. 2020), the prior of w.
    """

    sees_image = False

    def __init__(self, generator: Generator, target: Tensor) -> None:
        self.mean, self.radius = generator.w_avg, w_std(generator)

    def index(self, rows: Tensor) -> WPrior:
        return self

    def __call__(self, view: View) -> Tensor:
        return ((view.inputs.ws - self.mean) / self.radius).square().sum(dim=2).mean(dim=1)


class RowsCosine(Term):
    """Mean over all pairs of rows of ws of 1 minus their cosine: 0 for a code of W, [B].

    Source: BRGM (Marinescu et al. 2020), the prior that holds rows together.
    """

    sees_image = False

    def __init__(self, generator: Generator, target: Tensor) -> None:
        pass

    def index(self, rows: Tensor) -> RowsCosine:
        return self

    def __call__(self, view: View) -> Tensor:
        unit = F.normalize(view.inputs.ws, dim=2)
        return 1 - (unit @ unit.transpose(1, 2)).mean(dim=(1, 2))
