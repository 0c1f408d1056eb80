"""The locality regulariser of pivotal tuning: the tuned generator should draw what the untouched one does.

Source: Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images", section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator, Term
from latentopt.statistics.sampling import sample_w, w_std
from latentopt.statistics.streams import step_stream
from latentopt.types import GeneratorInputs, View

NORMS = ("row", "all")
PURPOSE = 0x10CA11  # apart from the other things that are drawn from an image's seed


class Locality(Term):
    """How far the tuned generator's images have moved from the frozen one's near the pivot, [B]; 0 without deltas.

    For a random w of truncation psi, at every step anew:

        w_moved = pivot + distance * (w - pivot) / ||w - pivot||
        value   = l2_weight * mean square + lpips_weight * perceptual distance
                  of  G(w_moved; theta), G(w_moved; theta + delta)

    drawn without noise. The pivot is the ws of the moment, as a constant: the gradient reaches the deltas alone.

    distance      in radii of the cloud of w (root mean square distance from its mean)
    norm          row: every layer's w moves that far; all: the whole ws [L,C] by sqrt(L) times as much, which its
                  layers share. The same for a pivot in W
    psi           truncation of the random w
    samples       random w an image and step; the value is their mean
    interval      measure every so many steps; in the others the value is 0, which suits `keep = "last"` only
    l2_weight, lpips_weight   of the two distances; PTI's lambda_R is the weight of the whole term
    label         of the random w, for conditional generators
    net, size, weights   of the perceptual distance, as in `perceptual`

    Where the paper and its code part: the paper moves a vector of W by alpha = 30; the code divides by the norm of the
    whole [18,512] tensor, so that each layer moves by 30/sqrt(18) = 7.07. This default is the code's, made independent
    of the generator: FFHQ's cloud has a radius of about 9.4, and 7.07 is 0.75 of it. The paper's own is `distance =
    3.2`. The code has the term off by default; the paper, with weight 0.1, on.
    """

    reads = {"weights": "file"}
    varies = True
    examples = ({"net": "bundled"}, {"lpips_weight": 0.0, "samples": 2, "norm": "all"})

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        distance: float = 0.75,
        norm: str = "row",
        psi: float = 0.5,
        samples: int = 1,
        interval: int = 1,
        l2_weight: float = 1.0,
        lpips_weight: float = 1.0,
        label: int = 0,
        net: str = "auto",
        size: int | None = None,
        weights: str | None = None,
    ) -> None:
        if norm not in NORMS:
            raise UsageError(f"locality: norm {norm!r} is not one of {', '.join(NORMS)}")
        for name, count in (("samples", samples), ("interval", interval)):
            if count < 1:
                raise UsageError(f"locality: {name} must be at least 1, not {count}")
        for name, value in (("distance", distance), ("l2_weight", l2_weight), ("lpips_weight", lpips_weight)):
            if not 0 <= value < math.inf:
                raise UsageError(f"locality: {name} must be a number of at least 0, not {value}")
        self.generator, self.norm, self.psi, self.label = generator, norm, psi, label
        self.samples, self.interval = samples, interval
        self.l2_weight, self.lpips_weight = l2_weight, lpips_weight
        self.radius = distance * w_std(generator)
        self.perceptual = None
        if lpips_weight:
            self.perceptual = PerceptualFeatures(generator, net, size, weights)
            self.network = self.perceptual.network

    def index(self, rows: Tensor) -> Locality:
        return self

    def __call__(self, view: View) -> Tensor:
        deltas = view.inputs.deltas
        if not deltas or view.step % self.interval:
            return view.image.new_zeros(len(view.image))
        ws = self._moved(view).flatten(0, 1)  # [B*S,L,C]
        deltas = {name: self._repeated(delta) for name, delta in deltas.items()}
        tuned = self._draw(ws, deltas)
        with torch.no_grad():  # deltas of zero, so that both take the same path and rounding cancels
            frozen = self._draw(ws, {name: delta.new_zeros(()).expand_as(delta) for name, delta in deltas.items()})
        value = self.l2_weight * (tuned - frozen).square().mean(dim=(1, 2, 3))
        if self.perceptual is not None:
            value = value + self.lpips_weight * self.perceptual.distance(tuned, frozen)
        return value.unflatten(0, (-1, self.samples)).mean(dim=1)

    def _draw(self, ws: Tensor, deltas: dict[str, Tensor]) -> Tensor:
        return self.generator.synthesis(GeneratorInputs(ws, deltas=deltas), "none").float()

    def _repeated(self, delta: Tensor) -> Tensor:
        """An image's delta for each of its samples; one that all images share stays single."""
        return delta if len(delta) == 1 else delta.repeat_interleave(self.samples, dim=0)

    def _moved(self, view: View) -> Tensor:
        """Codes at the given distance from each image's pivot: [B,S,L,C]."""
        pivot = view.inputs.ws.detach()[:, None]  # [B,1,L,C]
        w = torch.stack([self._random_w(seed, view.step) for seed in view.seeds])[:, :, None]  # [B,S,1,C]
        step = w.to(pivot) - pivot
        if self.norm == "row":
            length = step.norm(dim=3, keepdim=True)
        else:
            length = step.norm(dim=(2, 3), keepdim=True) / step.shape[2] ** 0.5
        return pivot + self.radius * step / length.clamp_min(1e-12)

    def _random_w(self, seed: int, step: int) -> Tensor:
        """Truncated samples [S,C] of an image's own seed and the step."""
        w_avg = self.generator.w_avg
        w = sample_w(self.generator, step_stream(seed, step, PURPOSE), self.samples, self.label)
        return w_avg + self.psi * (w - w_avg)
