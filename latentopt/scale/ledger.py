"""Which process works on which batch: claims as small files, so that any number of machines that share a disk can take
part, and none needs a server.

Of batch 12 there are, in turn: `0000/12.1`, the first attempt's claim, which its holder touches every few seconds;
`0000/12.2`, the second one's, made when the first one's holder is gone; `0000/12.done`, the rows of its images. Who
makes the claim with the next number has the batch; a file can be made by one process only, so no lock is needed, and
whoever was thought to be dead sees by the higher number that it holds the batch no longer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latentopt.results.rows import failed_row
from latentopt.scale.owners import is_gone, owner
from latentopt.scale.shelves import Shelf

BLOCK = 256  # batches in a folder: to find one that is free, a folder is listed, not all of them
GLANCE = 2.0  # seconds for which a claim that was seen alive is not looked at again
DONE, SPLIT = "done", "split"


@dataclass(frozen=True)
class Entry:
    """A batch, or an image by itself of one that had to be split."""

    id: str
    names: tuple[str, ...]

    @property
    def file(self) -> str:
        return f"{int(self.id.partition('-')[0]) // BLOCK:04d}/{self.id}"

    @property
    def place(self) -> str:
        """The folder of its saved state: the same for the same images."""
        return hashlib.sha256("\0".join(self.names).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Claim:
    entry: Entry
    attempt: int
    owner: str

    @property
    def file(self) -> str:
        return f"{self.entry.file}.{self.attempt}"


@dataclass
class Seen:
    """What is there of an entry."""

    attempt: int = 0
    done: bool = False
    split: bool = False


def digest(plan: Sequence[Sequence[str]]) -> str:
    """Of a plan: another one has another ledger."""
    made = hashlib.sha256()
    for names in plan:
        made.update(json.dumps(names).encode() + b"\n")
    return made.hexdigest()[:16]


@dataclass
class Ledger:
    """The batches of `plan`, which is the same for all who take part, and their claims on a shelf.

    lease: seconds after which a claim that nobody touches is another's to take, if its holder's machine is another;
    retries: attempts on end that may come to nothing before the images are tried one by one, and then set aside.
    progress: of an entry, something that changes when its saved state does: an attempt that got on does not count.
    """

    shelf: Shelf
    plan: Sequence[Sequence[str]]
    lease: float = 60.0
    retries: int = 3
    progress: Callable[[Entry], str] = lambda entry: ""
    _full: set[int] = field(default_factory=set, repr=False)  # blocks with nothing left to do
    _alive: dict[str, float] = field(default_factory=dict, repr=False)
    _mine: str = field(default_factory=owner, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _full=set(), _alive={}, _mine=owner())

    @property
    def blocks(self) -> range:
        return range(-(-len(self.plan) // BLOCK))

    def begin(self) -> None:
        """A new run over the same images: what is done is looked at again, and claims of the dead are forgotten."""
        for block in self.blocks:
            for name in self.shelf.names(f"{block:04d}"):
                file = f"{block:04d}/{name}"
                if not name.rpartition(".")[2].isdecimal() or self._is_free(file):
                    self.shelf.remove(file)

    def claim(self) -> Claim | None:
        """A batch that nobody works on, for this process; None where there is none at the moment."""
        first = hash(self._mine) % max(len(self.blocks), 1)
        for block in (*self.blocks[first:], *self.blocks[:first]):
            if block in self._full:
                continue
            left = False
            for entry, seen in self._entries(block):
                if seen.done:
                    continue
                left = True
                if (claim := self._try(entry, seen.attempt)) is not None:
                    return claim
            if not left:
                self._full.add(block)
        return None

    def beat(self, claim: Claim) -> bool:
        """Say that the holder is alive; False where the batch is another's by now."""
        return self.shelf.touch(claim.file) and self.holds(claim)

    def holds(self, claim: Claim) -> bool:
        return self.shelf.read(f"{claim.entry.file}.{claim.attempt + 1}") is None

    def finish(self, claim: Claim, rows: Sequence[Mapping[str, object]], again: Sequence[str] = ()) -> None:
        """rows: of the summary, one an image; again: the names of those that an earlier run had done."""
        self.shelf.write(f"{claim.entry.file}.{DONE}", json.dumps({"rows": rows, "again": again}))

    def release(self, claim: Claim) -> None:
        """Give it back, as if it had not been held."""
        if self.holds(claim):
            self.shelf.remove(claim.file)

    def fail(self, claim: Claim, reason: str) -> None:
        """The attempt has come to nothing."""
        record = json.loads(self.shelf.read(claim.file) or "{}")
        self.shelf.write(claim.file, json.dumps(record | {"reason": reason}))

    def finished(self, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The ids and records of what is done beyond what is `known`."""
        for block in self.blocks:
            for entry, seen in self._entries(block):
                if seen.done and entry.id not in known:
                    text = self.shelf.read(f"{entry.file}.{DONE}")
                    if text:
                        yield entry.id, json.loads(text)

    def _entries(self, block: int) -> Iterator[tuple[Entry, Seen]]:
        """The batches of a block; for one that is split its images instead."""
        found: dict[str, Seen] = {}
        for name in self.shelf.names(f"{block:04d}"):
            id_, _, kind = name.rpartition(".")
            seen = found.setdefault(id_, Seen())
            if kind.isdecimal():
                seen.attempt = max(seen.attempt, int(kind))
            seen.done, seen.split = seen.done or kind == DONE, seen.split or kind == SPLIT
        for number in range(block * BLOCK, min((block + 1) * BLOCK, len(self.plan))):
            whole = Entry(str(number), tuple(self.plan[number]))
            seen = found.get(whole.id, Seen())
            if not seen.split:
                yield whole, seen
                continue
            for i, name in enumerate(whole.names):
                part = Entry(f"{number}-{i}", (name,))
                yield part, found.get(part.id, Seen())

    def _try(self, entry: Entry, attempt: int) -> Claim | None:
        last: dict[str, Any] = {}
        if attempt:
            if not self._is_free(f"{entry.file}.{attempt}"):
                return None
            last = json.loads(self.shelf.read(f"{entry.file}.{attempt}") or "{}")
        now = self.progress(entry)
        lost = last.get("lost", -1) + 1 if now == last.get("progress") or not attempt else 0
        if lost >= self.retries:
            self._give_up(entry, str(last.get("reason", "its worker ended without a word")))
            return None
        claim = Claim(entry, attempt + 1, self._mine)
        record = {"owner": self._mine, "progress": now, "lost": lost}
        return claim if self.shelf.create(claim.file, json.dumps(record)) else None

    def _give_up(self, entry: Entry, reason: str) -> None:
        if len(entry.names) > 1:
            self.shelf.create(f"{entry.file}.{SPLIT}", "")
        else:
            text = f"set aside after {self.retries} attempts: {reason}"
            self.shelf.write(f"{entry.file}.{DONE}", json.dumps({"rows": [failed_row(entry.names[0], text)]}))

    def _is_free(self, file: str) -> bool:
        """Whether a claim's holder is gone, or has given up."""
        if self._alive.get(file, 0.0) > time.monotonic():
            return False
        text = self.shelf.read(file)
        try:
            record = json.loads(text or "{}")
        except ValueError:  # it is being written, or was when its writer was killed
            record = {}
        if "reason" in record or is_gone(str(record.get("owner", ""))):
            return True
        if self.shelf.age(file) > self.lease:
            return True
        self._alive[file] = time.monotonic() + min(GLANCE, self.lease / 4)
        return False
