"""The preflight of all that invert: calibrated once for a generator, then a warning for pictures that need one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from latentopt.errors import LatentoptError
from latentopt.pictures.finding import ImageSource
from latentopt.pictures.images import TargetImage
from latentopt.preflight.preflight import PREFLIGHT, Preflight, find_preflight
from latentopt.protocols import Generator


class PictureCheck:
    """Looks at pictures before they are inverted. What it finds is a note on the picture; nothing is ever refused.

    calibrate: makes the generator's preflight where there is none yet; on_note: called with what kept it from being
    made.
    """

    def __init__(
        self,
        generator: Generator,
        calibrate: Callable[[Generator], Preflight] = Preflight.of,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.generator, self.calibrate, self.on_note = generator, calibrate, on_note

    def __call__(self, source: ImageSource, target: TargetImage, done: bool) -> TargetImage:
        """The picture, the warning added to its notes if there is one: `look=` of `latentopt.invert`.

        A picture that is done already is not looked at, and a masked one, of which only a part counts, is not judged.
        """
        if done or target.mask is not None or self.preflight is None:
            return target
        verdict = self.preflight.check(target.image[None].to(self.generator.device))[0]
        return replace(target, notes=(*target.notes, verdict.warning)) if verdict.warning else target

    @cached_property
    def preflight(self) -> Preflight | None:
        """The generator's own, made and kept in pnorm_stats/ where there is none yet; None where it cannot be made."""
        try:
            if (found := find_preflight(self.generator)) is not None:
                return found
            made = self.calibrate(self.generator)
        except LatentoptError as error:
            self.on_note(f"no preflight: {error}")
            return None
        try:
            made.save(PREFLIGHT.new_path(self.generator))
        except OSError as error:
            self.on_note(f"the preflight's calibration is not kept: {error}")
        return made
