"""Which of many images a process works on: a part of all, told by a hash of each image's name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from latentopt.errors import UsageError

Shard = tuple[int, int]
"""Part i of N, i from 0."""

FOLDER = re.compile(r"shard-(\d+)-of-(\d+)")
ARRAY = "SLURM_ARRAY_TASK_"


def in_shard(name: str, shard: Shard | None) -> bool:
    """Whether an image belongs to a part; without one, all do. It depends on the name alone, so that an image stays in
    its part when others come.
    """
    if shard is None:
        return True
    part, of = shard
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % of == part


def shard_folder(folder: Path, shard: Shard | None) -> Path:
    """Where the results of a part lie below the output folder; without one, that folder itself."""
    return folder if shard is None else folder / f"shard-{shard[0]:0{len(str(shard[1] - 1))}d}-of-{shard[1]}"


def shards_in(folder: Path) -> Iterator[tuple[Shard, Path]]:
    """The parts whose results lie below an output folder."""
    for path in sorted(folder.glob("shard-*-of-*")):
        if (match := FOLDER.fullmatch(path.name)) and path.is_dir():
            yield (int(match[1]), int(match[2])), path


def array_shard(environment: Mapping[str, str]) -> Shard | None:
    """The part that a task of SLURM's array has, by its variables; None outside of one, and for an array of one.

    Raises UsageError for an array with gaps, in which the parts cannot be told.
    """
    known = {key: environment.get(f"{ARRAY}{key}", "") for key in ("ID", "COUNT", "MIN", "STEP")}
    if not (known["ID"].isdecimal() and known["COUNT"].isdecimal()):
        return None
    task, count = int(known["ID"]), int(known["COUNT"])
    part, rest = divmod(task - int(known["MIN"] or 0), int(known["STEP"] or 1))
    if rest or not 0 <= part < count:
        raise UsageError(f"{ARRAY}ID={task} of {count} tasks: an array with gaps; say which part it is: --shard i/N")
    return (part, count) if count > 1 else None
