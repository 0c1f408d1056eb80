"""`--delta`, `--strength` and `--force-delta`: tuned weights for the commands that load a generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import click

from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError


def delta_options(command: Callable) -> Callable:
    """The options, as the parameters `deltas`, `strength` and `force_delta` of `command`."""
    for option in (
        click.option("--force-delta", is_flag=True, help="Take a delta that was made for another generator."),
        click.option("--strength", type=float, help="Multiply the deltas by this.  [default: 1]"),
        click.option(
            "--delta",
            "deltas",
            multiple=True,
            type=UserPath(path_type=Path),
            metavar="FILE",
            help="Tuned weights: a delta file, or the result folder that holds one. Several are added up.",
        ),
    ):
        command = option(command)
    return command


def checked_strength(deltas: tuple[Path, ...], strength: float | None, force_delta: bool) -> float:
    """The strength asked for, 1 by default. Raises UsageError for options that mean nothing together."""
    if not deltas and (strength is not None or force_delta):
        option = "--force-delta" if strength is None else "--strength"
        raise UsageError(f"{option} needs a delta; name one with --delta FILE")
    if strength is not None and not math.isfinite(strength):
        raise UsageError(f"--strength must be a finite number, not {strength}")
    return 1.0 if strength is None else strength
