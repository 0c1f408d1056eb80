"""Choosing which of the generator's weights are tuned, by name."""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase

from latentopt.errors import UsageError
from latentopt.protocols import Generator

LAST = re.compile(r"convs:(\d+)$")


def choose_weights(generator: Generator, layers: str) -> tuple[str, ...]:
    """The names in `generator.tunable` that `layers` stands for, from coarse to fine.

    layers   all, every tunable weight but those that place the picture (`Generator.placing`); convs, the weights of the
             convolutions (toRGB not among them); convs:6, the last six of these (all where there are fewer); a glob
             over the names, such as synthesis.b64.*; or several, joined by commas

    Raises UsageError, with the nearest names, for a part that chooses nothing.
    """
    names = list(generator.tunable)
    parts = [part.strip() for part in layers.split(",") if part.strip()]
    if not parts:
        raise UsageError("layers is empty; give all, convs, convs:6, or globs such as synthesis.b64.*")
    convolutions = list(generator.convolutions.values())
    placing = generator.placing
    free = [name for name in names if name not in placing]
    chosen = {name for part in parts for name in (free if part == "all" else _choose(names, convolutions, part))}
    return tuple(name for name in names if name in chosen)


def _choose(names: list[str], convolutions: list[str], part: str) -> list[str]:
    last = LAST.match(part)
    if part == "convs" or last:
        if not convolutions:
            raise UsageError(
                f"layers {part!r}: this generator names no convolutions; choose by globs{_near('', names)}"
            )
        if last is None:
            return convolutions
        if int(last[1]) < 1:
            raise UsageError(f"layers {part!r}: the number of convolutions must be at least 1")
        return convolutions[-int(last[1]) :]
    matching = [name for name in names if fnmatchcase(name, part)]
    if not matching:
        raise UsageError(f"layers {part!r} matches no weight{_near(part, names)}")
    return matching


def _near(part: str, names: list[str]) -> str:
    """A few of the names, the nearest first: a generator has too many to list them all."""
    near = difflib.get_close_matches(part, ["all", "convs", *names], 3, cutoff=0.4) or [*names[:2], names[-1]]
    return f"; names are such as {', '.join(near)}"
