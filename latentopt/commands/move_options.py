"""`--rotate` and `--translate`: the move of a picture that the network itself draws, for families that can."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from latentopt.errors import UsageError

if TYPE_CHECKING:
    from latentopt.geometry.moves import PictureMove

MOST = 100.0  # widths: what is drawn beyond is the same everywhere, and float32 has lost the place


class Shift(click.ParamType):
    """`X,Y`: two numbers."""

    name = "x,y"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        parts = str(value).split(",")
        try:
            x, y = (float(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is no shift; write X,Y in widths of the picture, such as 0.1,0", param, ctx)
        if not max(abs(x), abs(y)) <= MOST:
            self.fail(f"{value!r}: a shift is at most {MOST:g} widths", param, ctx)
        return x, y


def move_options(command: Callable) -> Callable:
    """The options, as the parameters `rotate` and `translate` of `command`."""
    for option in (
        click.option(
            "--translate",
            type=Shift(),
            metavar="X,Y",
            help="Shift the picture right and down, in its widths, where the network draws moves.",
        ),
        click.option(
            "--rotate",
            type=float,
            metavar="DEGREES",
            help="Turn the picture anticlockwise, where the network draws moves.",
        ),
    ):
        command = option(command)
    return command


def asked_move(rotate: float | None, translate: tuple[float, float] | None) -> tuple[float, tuple[float, float]] | None:
    """The move that is asked for, None for none. Raises UsageError for an angle that is no finite number."""
    if rotate is None and translate is None:
        return None
    if rotate is not None and not math.isfinite(rotate):
        raise UsageError(f"--rotate must be a finite number of degrees, not {rotate}")
    return rotate or 0.0, translate or (0.0, 0.0)


def move_for(generator: Any, asked: tuple[float, tuple[float, float]] | None) -> PictureMove | None:
    """The same as a move of `generator`'s pictures. Raises UsageError for a family that draws none."""
    if asked is None:
        return None
    from latentopt.api import PictureMove, check_takes_transform

    check_takes_transform(generator)
    return PictureMove(*asked)
