"""A fit in parts: followed to its end, where its moments are kept, and whether all shards belong together."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from latentopt.errors import StatisticsError
from latentopt.protocols import Generator


def shard_path(out: Path, shard: tuple[int, int]) -> Path:
    """Where the moments of a shard are kept: beside `out`."""
    return out.with_name(f"{out.stem}.shard-{shard[0]}-of-{shard[1]}.safetensors")


def find_shards(out: Path) -> list[Path]:
    """All shard files beside `out`."""
    return sorted(out.parent.glob(f"{out.stem}.shard-*-of-*.safetensors"))


def partial_path(out: Path) -> Path:
    """Where the moments of an unfinished fit are kept."""
    return out.with_name(f".{out.stem}.partial.safetensors")


class Statistics(Protocol):
    def save(self, path: Path) -> None: ...


def keep_fit(statistics: Statistics, out: Path, merged: bool) -> None:
    """Save statistics as `out` and remove what only the unfinished fit needed, shards too where they were `merged`."""
    statistics.save(out)
    for path in [partial_path(out), *(find_shards(out) if merged else [])]:
        path.unlink(missing_ok=True)


class Fit(Protocol):
    """Work that is counted, and that can be broken off after every record of `run`."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    def run(self) -> collections.abc.Generator[Any, None, None]: ...


def follow_fit(
    fit: Fit,
    on_start: Callable[[int, int], object],
    on_progress: Callable[[int], object],
    on_kept: Callable[[int], object],
) -> None:
    """Do the work. on_start: called with how much is done already, and with all; on_progress: with how much more is;
    on_kept: with how much is kept when KeyboardInterrupt ends the work.
    """
    done = fit.done
    on_start(done, fit.total)
    try:
        with closing(fit.run()) as records:  # closed, and so saved, before an interruption goes on
            for _ in records:
                on_progress(fit.done - done)
                done = fit.done
    except KeyboardInterrupt:
        on_kept(fit.done)
        raise


@dataclass(frozen=True)
class Shard:
    """What is known of a shard's file: `state` has the generator's `fingerprint`, the `shard` (i, N), and the fit's
    settings; `finished`: whether all of its part is done.
    """

    path: Path
    state: Mapping[str, Any]
    finished: bool


def check_shards(generator: Generator, shards: Sequence[Shard], settings: Sequence[str], command: str) -> None:
    """Raise StatisticsError unless these are all shards of one fit of `generator`, finished.

    settings: the keys of a state in which they must agree; command: what makes shards, such as fit-pnorm.
    """
    if not shards:
        raise StatisticsError(f"no shards to merge; run latentopt {command} --shard i/N for each i from 0 to N-1 first")
    first = shards[0]
    if first.state["fingerprint"] != generator.fingerprint:
        raise StatisticsError(
            f"{first.path}: moments of another generator ({first.state['fingerprint']}), not of {generator.name!r} "
            f"({generator.fingerprint}); remove it, or name its generator with --network"
        )
    count = first.state["shard"][1]
    for shard in shards:
        part, of = shard.state["shard"]
        if of != count:
            raise StatisticsError(
                f"{shard.path}: one of {of} shards, but {first.path} is one of {count}; remove those left over"
            )
        if any(shard.state[key] != first.state[key] for key in ("fingerprint", *settings)):
            names = f"its generator, {', '.join(settings[:-1])} or {settings[-1]}"
            raise StatisticsError(f"{shard.path}: {names} differ from those of {first.path}")
        if not shard.finished:
            raise StatisticsError(f"{shard.path}: unfinished; run latentopt {command} --shard {part}/{count} again")
    if len(shards) != count or sorted(shard.state["shard"][0] for shard in shards) != list(range(len(shards))):
        found = ", ".join(str(shard.state["shard"][0]) for shard in shards)
        raise StatisticsError(f"shards 0 to {count - 1} are needed to merge; found {found}")
