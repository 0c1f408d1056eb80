"""Settings of refiner training: the WarpRes paper's losses, weights and schedule, in the means that are taken here."""

from __future__ import annotations

from dataclasses import dataclass

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.refiners import FORMS, KINDS


@dataclass(frozen=True)
class RefinerTraining:
    """Settings of one training (Yildirim et al., section 3.3).

    Losses are means over pixels and features, and the perceptual distance is of LPIPS's form; the paper's are sums and
    VGG features of unknown scale. So the weights are not its numbers, but the ratio of its two paths is: on the cycle's
    way back pixels do not count, and perceptual and identity loss count a tenth. A `cycle` of the steps edit, there and
    back, by a share of the way to a random sample, `alpha` to `alpha_max`. The rate is halved after a quarter, half
    and three quarters of the steps: 5,000, 10,000 and 15,000 of 20,000.

    feature_weight  of the mean absolute value of what is added: the features hold what the latents cannot
    flow_weight     of the mean absolute difference of the flow from the teacher's, at the size of the tap; 0: WarpRes
                    without a teacher
    """

    kind: str = "warpres"
    form: str = "plain"
    steps: int = 10_000
    batch: int = 8
    lr: float = 5e-4
    l2_weight: float = 1.0
    perceptual_weight: float = 1.0
    similarity_weight: float = 0.1
    cycle_perceptual: float = 0.1
    cycle_similarity: float = 0.01
    adversarial_weight: float = 0.01
    feature_weight: float = 0.01
    flow_weight: float = 0.1
    cycle: float = 0.5
    alpha: float = 0.4
    alpha_max: float = 0.5
    d_lr: float = 5e-4
    r1: float = 1.0
    r1_interval: int = 16
    ema: float = 0.999
    perceptual_net: str = "auto"
    similarity_net: str = "perceptual"
    precision: str = "auto"
    seed: int = 0

    def rate(self, step: int) -> float:
        """The share of the learning rates in this step."""
        return 0.5 ** min(3, 4 * step // self.steps)

    def edits(self, step: int) -> bool:
        """Whether this step takes the cycle's path: evenly among the others, as often as `cycle` says."""
        return int((step + 1) * self.cycle) > int(step * self.cycle)

    def check(self, generator: Generator, processes: int = 1) -> None:
        """Raises UsageError for settings and generators that cannot be trained with."""
        for name, known in (("kind", KINDS), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise UsageError(f"refiner {name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if min(self.steps, self.batch) < 1:
            raise UsageError("steps and batch must be at least 1")
        if not 0 <= self.alpha <= self.alpha_max <= 1 or not 0 <= self.cycle <= 1:
            raise UsageError("alpha, alpha_max and cycle must lie in [0,1], alpha below alpha_max")
        if self.batch % processes:
            raise UsageError(f"--batch {self.batch} cannot be split evenly among {processes} processes")
        if generator.c_dim:
            raise UsageError(f"{generator.name}: takes labels; refiners are trained for generators without")
