"""The preflight of the commands that invert, with a progress line while it is calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.preflight.picture_check import PictureCheck
    from latentopt.preflight.preflight import Preflight
    from latentopt.protocols import Generator


def picture_check(generator: Generator, quiet: bool) -> PictureCheck:
    """What looks at pictures before they are inverted, for a command that says on stderr what there is to say."""
    from latentopt.commands.progress import Progress
    from latentopt.preflight.picture_check import PictureCheck
    from latentopt.preflight.preflight import Preflight
    from latentopt.preflight.warm_start import sample_count

    def calibrate(generator: Generator) -> Preflight:
        with Progress(sample_count(generator), "preflight", unit="sample", quiet=quiet) as progress:
            return Preflight.of(generator, progress.advance)

    return PictureCheck(generator, calibrate, lambda text: click.echo(escape_controls(text), err=True))
