"""The preflight of the commands that invert, and what they say of the pictures that are read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from latentopt.files.text import one_line
from latentopt.watching.phases import tell

if TYPE_CHECKING:
    from latentopt.inverting.items import Look
    from latentopt.pictures.finding import ImageSource
    from latentopt.pictures.images import TargetImage
    from latentopt.preflight.picture_check import PictureCheck
    from latentopt.preflight.preflight import Verdict
    from latentopt.protocols import Generator

MOST_LINES = 5  # of warnings about single pictures; more are counted, and told at the end

preflight_option = click.option(
    "--preflight/--no-preflight",
    default=None,
    help="Look first whether pictures suit the generator; by default where it costs little.",
)


class Warnings:
    """What the preflight finds: a short line for each of the first pictures, a table of all where they are many."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def __call__(self, source: ImageSource, verdict: Verdict) -> None:
        self.found.append((str(source.path), verdict.short))
        if len(self.found) <= MOST_LINES:
            tell(one_line(f"{source.path}: {verdict.short}"))
        elif len(self.found) == MOST_LINES + 1:
            tell("further pictures that look so are told at the end")

    def report(self) -> None:
        """After the work: where the details are and, for many, which pictures they are."""
        if len(self.found) > MOST_LINES:
            click.echo(f"{len(self.found)} pictures do not look as this generator's do:", err=True)
            width = max(len(one_line(path)) for path, _ in self.found)
            for path, short in self.found:
                click.echo(f"  {one_line(path):<{width}}  {short}", err=True)
        if self.found:
            click.echo("what that means for each picture is in index.html and its run.json", err=True)


def picture_check(
    generator: Generator, images: int, steps: int, wanted: bool | None, warnings: Warnings
) -> PictureCheck | None:
    """What looks at pictures before they are inverted; None where it is not `wanted`, which None leaves to the cost."""
    from latentopt.preflight.picture_check import PictureCheck, Work

    if wanted is False:
        return None
    return PictureCheck(generator, None if wanted else Work(images, steps), warnings)


def notes_told(check: PictureCheck | None) -> Look:
    """Says of each picture that is read what was done to it, and then looks at it, where there is a `check`."""
    return partial(_look, check)


def _look(check: PictureCheck | None, source: ImageSource, target: TargetImage, done: bool) -> TargetImage:
    for note in target.notes:
        tell(one_line(f"{source.path}: {note}"))
    return target if check is None else check(source, target, done)
