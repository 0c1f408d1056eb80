"""The preflight of all that invert: calibrated once for a generator, then a warning for pictures that need one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from latentopt.errors import LatentoptError
from latentopt.pictures.finding import ImageSource
from latentopt.pictures.images import TargetImage
from latentopt.preflight.preflight import PREFLIGHT, Preflight, Verdict, find_preflight
from latentopt.preflight.warm_start import FEWEST, find_warm_start, sample_count
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import tell

SHARE = 0.05  # of the work, which the look may cost where nobody asked for it
IN_A_STEP = 3  # pictures that could be drawn in the time of one step of one image: forward and backward
MOMENT = 2.0  # seconds that it may cost in any case
SMALL = 256 * 256  # pixels up to which that allows some pictures on a CPU


@dataclass(frozen=True)
class Work:
    """What was asked for: so many images, so many steps each."""

    images: int
    steps: int

    @property
    def draws(self) -> float:
        """The pictures that can be drawn in a small share of its time."""
        return SHARE * IN_A_STEP * self.images * self.steps


class PictureCheck:
    """Looks at pictures before they are inverted. What it finds is a note on the picture; nothing is ever refused.

    work: the look may cost a twentieth of it, and is left out, with a line, where it would cost more; None: whatever it
    costs. on_warning: called with the picture and what was found, where that is worth a warning.
    """

    def __init__(
        self,
        generator: Generator,
        work: Work | None = None,
        on_warning: Callable[[ImageSource, Verdict], object] = lambda source, verdict: None,
    ) -> None:
        self.generator, self.work, self.on_warning = generator, work, on_warning

    def __call__(self, source: ImageSource, target: TargetImage, done: bool) -> TargetImage:
        """The picture, the warning added to its notes if there is one: `look=` of `latentopt.invert`.

        A picture that is done already is not looked at, and a masked one, of which only a part counts, is not judged.
        """
        if done or target.mask is not None or self.preflight is None:
            return target
        verdict = self.preflight.check(target.image[None].to(self.generator.device))[0]
        if not verdict.warning:
            return target
        self.on_warning(source, verdict)
        return replace(target, notes=(*target.notes, verdict.warning))

    @cached_property
    def preflight(self) -> Preflight | None:
        """The generator's own, made and kept in pnorm_stats/ where there is none yet; None where it cannot be made or
        would cost too much.
        """
        try:
            return self._found_or_made()
        except LatentoptError as error:
            tell(f"no preflight: {error}")
            return None

    def _found_or_made(self) -> Preflight | None:
        found = find_preflight(self.generator)
        start = find_warm_start(self.generator) if found is None else found.start
        looks = 2 * start.draws * (1 if self.work is None else self.work.images)  # moves are tried for a few only
        each = 2  # pictures for a sample: itself, and the start's guess at it or another one for the start's pool
        affordable = self._affordable()
        samples = int(min(sample_count(self.generator), max(affordable - looks, 0) // each))
        if looks > affordable or (found is None and samples < FEWEST):
            self._tell_left_out(looks + (FEWEST * each if found is None else 0))
            return None
        return self._kept(Preflight.of(self.generator, samples)) if found is None else found

    def _affordable(self) -> float:
        """Pictures that may be drawn."""
        if self.work is None:
            return float("inf")
        height, width = self.generator.resolution
        if self.generator.device.type == "cpu" and height * width > SMALL:  # to time one would take seconds too
            return self.work.draws
        return max(self.work.draws, MOMENT / self._seconds_a_picture())

    @torch.no_grad()
    def _seconds_a_picture(self) -> float:
        began = time.perf_counter()
        self.generator.synthesis(GeneratorInputs(self.generator.broadcast(self.generator.w_avg[None])))
        return max(time.perf_counter() - began, 1e-4)

    def _tell_left_out(self, draws: int) -> None:
        share = (
            "" if self.work is None else f", which would cost {100 * SHARE * draws / self.work.draws:.0f} % of this run"
        )
        tell(
            f"no preflight: whether pictures suit {self.generator.name} is not looked at{share}; --preflight does it "
            "all the same"
        )

    def _kept(self, made: Preflight) -> Preflight:
        try:
            made.save(PREFLIGHT.new_path(self.generator))
        except OSError as error:
            tell(f"the preflight's calibration is not kept: {error}")
        return made
