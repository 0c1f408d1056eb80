"""A run by many hands, from the one who called for it: hands are hired and replaced, results told as they come."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from latentopt.errors import LatentoptError
from latentopt.files.plan import FILE, FOLDER
from latentopt.inverting.events import Advanced, Event, Failed, FinishedElsewhere, Noted
from latentopt.inverting.resuming import RESUME_FOLDER
from latentopt.scale.job import Answer, Job
from latentopt.scale.ledger import Entry, digest
from latentopt.watching.interruption import Interrupted, holding

PATIENCE = 0.2  # seconds to wait for an answer
GLANCE = 2.0  # seconds after which the ledger is looked at, where hands have nothing to do
DEATHS = 10  # of hands on end, for each that should be there, without a batch done between


class Crew(Protocol):
    """Hands: processes that take part in a run, each told when to take a batch. A hand is known by a number."""

    def wanted(self) -> int:
        """How many there can be now."""

    def hire(self, number: int) -> None:
        """Start one, and have it take a batch."""

    def go_on(self, number: int) -> None:
        """Have it take another one."""

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer | None]]:
        """What hands say, waiting for so long; None where one has died."""

    def dismiss(self, number: int) -> None:
        """It is not needed any more."""

    def stop(self) -> None:
        """All save and end; returns when they have."""

    def kill(self) -> None:
        """All end at once."""


def drive(job: Job, crew: Crew, interrupted: Interrupted) -> Iterator[Event]:
    """The run, to its end. Raises KeyboardInterrupt, with all saved, when `interrupted` says so; LatentoptError for
    what no hand can get over.
    """
    _clear(job)
    job.ledger.begin()
    ended = False
    try:
        with holding(interrupted):
            yield from _Run(job, crew).events(interrupted)
            crew.stop()
        ended = True
    finally:
        if not ended:
            crew.kill()
    job.ledger.shelf.clear()


class _Run:
    """What is known of a run in the midst of it."""

    def __init__(self, job: Job, crew: Crew) -> None:
        self.job, self.crew = job, crew
        self.told: set[str] = set()  # ids of batches
        self.left = len(job.items)
        self.hands: dict[int, bool] = {}  # whether each has nothing to do
        self.hired = self.deaths = 0
        self.reasons: Counter[str] = Counter()

    def events(self, interrupted: Interrupted) -> Iterator[Event]:
        glanced = time.monotonic()
        while self.left:
            if interrupted():
                self.crew.stop()
                raise KeyboardInterrupt
            self._hire()
            for number, answer in self.crew.answers(PATIENCE):
                yield from self._heard(number, answer)
            if time.monotonic() - glanced >= GLANCE:
                glanced = time.monotonic()
                if any(self.hands.values()) or not self.hands:
                    yield from self._look()

    def _hire(self) -> None:
        wanted = min(self.crew.wanted(), self.left)
        while len(self.hands) < wanted:
            self.hired += 1
            self.hands[self.hired] = False
            self.crew.hire(self.hired)
        for number in [n for n, idle in self.hands.items() if idle][: max(len(self.hands) - max(wanted, 1), 0)]:
            del self.hands[number]
            self.crew.dismiss(number)

    def _look(self) -> Iterator[Event]:
        """What others have done, and what may be free by now."""
        for id_, record in self.job.ledger.finished(self.told):
            yield from self._done(id_, record)
        for number, idle in self.hands.items():
            if idle and self.left:
                self.hands[number] = False
                self.crew.go_on(number)

    def _heard(self, number: int, answer: Answer | None) -> Iterator[Event]:
        if answer is None or answer.kind == "failed":
            yield from self._lost(number, "ended without a word" if answer is None else answer.text)
        elif answer.kind == "fatal":
            raise LatentoptError(answer.text)
        elif answer.kind == "told":
            yield Noted(answer.text)
        elif answer.kind == "idle":
            if number in self.hands:
                self.hands[number] = True
        else:
            self.deaths = 0
            yield from self._done(answer.id, answer.record)
            if number in self.hands and self.left:
                self.crew.go_on(number)

    def _lost(self, number: int, reason: str) -> Iterator[Event]:
        if self.hands.pop(number, None) is None:
            return
        self.crew.dismiss(number)
        self.deaths += 1
        if self.deaths > DEATHS * max(self.crew.wanted(), 1):
            raise LatentoptError(f"{self.deaths} workers have ended one after the other, the last: {reason}")
        yield Noted(f"a worker is replaced: {reason}")

    def _done(self, id_: str, record: Mapping[str, Any]) -> Iterator[Event]:
        if id_ in self.told:
            return
        self.told.add(id_)
        again = set(record.get("again", ()))
        for row in record["rows"]:
            self.left -= 1
            unreadable = row.pop("unreadable", False)
            if row["status"] == "ok":
                if row["name"] not in again:
                    yield Advanced(int(row["steps"]) + 1)
                yield FinishedElsewhere(self.job.out / row["name"], row, row["name"] in again)
            else:
                yield Failed(row["name"], row["name"], str(row["error"]), bool(unreadable))


def _clear(job: Job) -> None:
    """Remove ledgers of other plans, and saved states of batches that this one does not have."""
    own = digest(job.ledger.plan)
    for path in (job.out / FOLDER).iterdir() if (job.out / FOLDER).is_dir() else ():
        if path.name not in (own, FILE) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    places = {Entry("0", tuple(names)).place for names in job.ledger.plan}
    places |= {Entry("0", (item.name,)).place for item in job.items}
    for path in _folders(job.out / RESUME_FOLDER):
        if path.name not in places:
            shutil.rmtree(path, ignore_errors=True)


def _folders(path: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [child for child in path.iterdir() if child.is_dir()]
    return []
