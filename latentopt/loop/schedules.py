"""Learning-rate schedules: a factor on the base rate as a function of t in [0,1], the fraction of the stage done."""

from __future__ import annotations

import math


class Constant:
    """Always 1."""

    def __call__(self, t: float) -> float:
        return 1.0


class Karras:
    """Linear ramp up over `rampup`, cosine ramp down over the last `rampdown` (Karras et al. 2020, appendix D)."""

    def __init__(self, *, rampup: float = 0.05, rampdown: float = 0.25) -> None:
        self.rampup, self.rampdown = rampup, rampdown

    def __call__(self, t: float) -> float:
        down = min(1.0, (1.0 - t) / self.rampdown) if self.rampdown else 1.0
        up = min(1.0, t / self.rampup) if self.rampup else 1.0
        return (0.5 - 0.5 * math.cos(math.pi * down)) * up


class Cosine:
    """Half a cosine from 1 down to `final`."""

    def __init__(self, *, final: float = 0.0) -> None:
        self.final = final

    def __call__(self, t: float) -> float:
        return self.final + (1 - self.final) * (0.5 + 0.5 * math.cos(math.pi * t))
