"""The preflight of the commands that invert: calibrated once for a generator, then a warning for pictures that need one."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import click

from latentopt.commands.terminal import escape_controls
from latentopt.errors import LatentoptError

if TYPE_CHECKING:
    from latentopt.pictures.images import TargetImage
    from latentopt.preflight.preflight import Preflight
    from latentopt.protocols import Generator


class PictureCheck:
    """Looks at pictures before they are inverted. What it finds is a note on the picture; nothing is ever refused."""

    def __init__(self, generator: Generator, quiet: bool) -> None:
        self.generator, self.quiet = generator, quiet

    def __call__(self, target: TargetImage) -> tuple[str, ...]:
        """The warning, if there is one. A masked picture, of which only a part counts, is not judged."""
        if target.mask is not None or self.preflight is None:
            return ()
        verdict = self.preflight.check(target.image[None].to(self.generator.device))[0]
        return (verdict.warning,) if verdict.warning else ()

    @cached_property
    def preflight(self) -> Preflight | None:
        """The generator's own, made and kept in pnorm_stats/ where there is none yet; None where it cannot be made."""
        from latentopt.commands.progress import Progress
        from latentopt.preflight.preflight import PREFLIGHT, Preflight, find_preflight
        from latentopt.preflight.warm_start import sample_count

        generator = self.generator
        try:
            if (found := find_preflight(generator)) is not None:
                return found
            with Progress(sample_count(generator), "preflight", unit="sample", quiet=self.quiet) as progress:
                made = Preflight.of(generator, progress.advance)
        except LatentoptError as error:
            click.echo(escape_controls(f"no preflight: {error}"), err=True)
            return None
        try:
            made.save(PREFLIGHT.new_path(generator))
        except OSError as error:
            click.echo(escape_controls(f"the preflight's calibration is not kept: {error}"), err=True)
        return made
