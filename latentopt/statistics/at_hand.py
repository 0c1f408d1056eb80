"""Files that belong to a generator, looked for by its fingerprint: what `latentopt.registry.FILES` names.

A finder takes (generator, the name that a recipe gives or None, the plug-in's options) and returns the files that are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentopt.errors import StatisticsError
from latentopt.protocols import Generator
from latentopt.statistics.linear_prior import find_prior
from latentopt.statistics.pnorm import find_stats
from latentopt.statistics.sigma import find_sigma


def named_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The file that is named; nothing is looked for."""
    return [] if named is None else [Path(named)]


def saved_inputs(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """Saved inputs: a file, or a result's folder."""
    return [path / "inputs.safetensors" if path.is_dir() else path for path in named_file(generator, named, part)]


def pnorm_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    with contextlib.suppress(StatisticsError):
        return [Path(named) if named is not None else find_stats(generator)[1]]
    return []


def sigma_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    if named is not None:
        return [Path(named)]
    found = find_sigma(generator)
    return [] if found is None else [found[1]]


def prior_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    with contextlib.suppress(StatisticsError):
        return [Path(named) if named is not None else find_prior(generator)[1]]
    return []
