"""A run, so that another process can take part in it; and what a process does that takes part: a batch at a time."""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from latentopt.errors import LatentoptError, UsageError
from latentopt.files.plan import FOLDER
from latentopt.files.resources import PACKAGE
from latentopt.inverting.encoding import BatchEncoder
from latentopt.inverting.engine import Work
from latentopt.inverting.events import Failed, Finished, Noted
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread
from latentopt.inverting.resuming import RESUME_FOLDER
from latentopt.scale.ledger import Claim, Entry, Ledger, digest
from latentopt.scale.shelves import FolderShelf, FsspecShelf, Shelf
from latentopt.watching.interruption import Interrupted
from latentopt.watching.phases import Advance, listening


@dataclass(frozen=True)
class Answer:
    """What a hand says.

    kind: "done" (`id` and `record` of a batch), "idle" (nothing is free at the moment), "failed" (the hand should be
    replaced), "fatal" (nothing more can succeed) or "told" (a line); text: the reason, or the line.
    """

    kind: str
    id: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Job:
    """Work on images, with the ledger of who has which; cwd: where its statistics are looked for."""

    work: Work
    items: Sequence[Item | Unread]
    ledger: Ledger
    compiled: bool = False
    cwd: str = field(default_factory=os.getcwd)

    @property
    def out(self) -> Path:
        return cast(Path, self.work.out).absolute()

    def packed(self) -> bytes:
        """As other processes of the run get it; without compiled code."""
        packed = io.BytesIO()
        try:
            _Packer(packed).dump(self)
            return packed.getvalue()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"this work cannot be done by other processes: a part of it cannot be sent ({error})"
            ) from error


class _Packer(pickle.Pickler):
    """Of a tensor that is a part of another one, packs the part alone: an image of a batch would bring the batch."""

    def reducer_override(self, thing: object) -> Any:
        if type(thing) is not torch.Tensor or thing.untyped_storage().nbytes() == thing.nbytes:
            return NotImplemented
        return thing.clone().__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def job_of(
    work: Work,
    items: Sequence[Item | Unread],
    lease: float,
    retries: int,
    compiled: bool = False,
    ledger: str | None = None,
) -> Job:
    """The batches are those that one process would have: consecutive images. ledger: the address where claims are kept,
    as fsspec has it; by default in the output folder.
    """
    out = cast(Path, work.out).absolute()
    names = [item.name for item in items]
    plan = [tuple(names[i : i + work.size]) for i in range(0, len(names), work.size)]
    if ledger is None:
        shelf: Shelf = FolderShelf(out / FOLDER / digest(plan))
    else:  # one address may serve several runs, over the same images too
        shelf = FsspecShelf(f"{ledger.rstrip('/')}/{digest([(str(out),), *plan])}")
    return Job(work, items, Ledger(shelf, plan, lease, retries, partial(saved_state, out)), compiled)


def saved_state(out: Path, entry: Entry) -> str:
    """When the state of a batch was saved last; "" without one."""
    try:
        times = [path.stat().st_mtime_ns for path in (out / RESUME_FOLDER / entry.place).iterdir()]
    except FileNotFoundError:
        return ""
    return str(max(times, default=""))


def surroundings(threads: int) -> dict[str, str]:
    """Variables of the environment that other processes begin with: so many threads, and this very package, where it is
    a checkout's.
    """
    found = {"OMP_NUM_THREADS": str(threads)}
    if not {"site-packages", "dist-packages"} & set(PACKAGE.parts):
        found["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return found


class Told:
    """Hears what the work has to say."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say

    def tell(self, text: str) -> None:
        self.say(text)

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        yield lambda count: None


class Hand:
    """One process on one device, which takes batches until there are none."""

    def __init__(self, job: Job, device: str, threads: int, say: Callable[[str], object]) -> None:
        os.chdir(job.cwd)
        torch.set_num_threads(threads)
        self.work, self.ledger, self.say = job.work, job.ledger, say
        if self.work.generator.device != torch.device(device):
            _move(self.work, torch.device(device))
        if job.compiled:
            self.work.generator.compile()
        self.items = {item.name: item for item in job.items}
        self.claim: Claim | None = None
        self.lost, self.ended = threading.Event(), threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def next(self, interrupted: Interrupted) -> Answer:
        """Work on a batch that is free. Raises KeyboardInterrupt, with all saved, when `interrupted` says so."""
        try:
            claim = self.ledger.claim()
            if claim is None:
                return Answer("idle")
            return self._work(claim, interrupted)
        except LatentoptError as error:
            return Answer("fatal", text=str(error))

    def _work(self, claim: Claim, interrupted: Interrupted) -> Answer:
        self.lost.clear()
        self.claim = claim
        try:
            rows, again = self._rows(claim, lambda: interrupted() or self.lost.is_set())
        except KeyboardInterrupt:
            if not self.lost.is_set():
                self.ledger.release(claim)
                raise
            return Answer("idle", text="its batch was given to another")
        except LatentoptError:
            self.ledger.release(claim)
            raise
        except Exception as error:  # of the device, of memory, of a plug-in: others may fare better
            reason = f"{type(error).__name__}: {error}"
            self.ledger.fail(claim, reason)
            return Answer("failed", text=reason)
        finally:
            self.claim = None
        self.ledger.finish(claim, rows, again)
        return Answer("done", claim.entry.id, {"rows": rows, "again": again})

    def _rows(self, claim: Claim, interrupted: Interrupted) -> tuple[list[dict[str, object]], list[str]]:
        """The rows of a batch's images, and the names of those that an earlier run had done."""
        items = [self.items[name] for name in claim.entry.names]
        do = self.work.invert if isinstance(self.work, Inverter) else self.work.encode
        rows, again = [], []
        with listening(Told(self.say)):
            for event in do(items, interrupted, claim.entry.place):
                if isinstance(event, Noted):
                    self.say(event.text)
                if isinstance(event, Failed | Finished):
                    rows.append(
                        event.row | ({"unreadable": True} if isinstance(event, Failed) and event.unreadable else {})
                    )
                if isinstance(event, Finished) and event.again:
                    again.append(event.name)
                if self.lost.is_set():
                    raise KeyboardInterrupt
        return rows, again

    def _beat(self) -> None:
        """Say that the batch in hand is in hand, every so often."""
        while not self.ended.wait(self.ledger.lease / 4):
            claim = self.claim
            if claim is not None and not self.ledger.beat(claim) and claim is self.claim:
                self.lost.set()


def _move(work: Work, device: torch.device) -> None:
    """To another device, in place: all parts of the work share the generator."""
    modules: list[Any] = [work.generator]
    if isinstance(work, BatchEncoder):
        encoding = work.encoding
        modules += [encoding.encoder.net, *([encoding.mix.net] if encoding.mix else [])]
        modules += [encoding.bootstrap[0].net, encoding.bootstrap[1]] if encoding.bootstrap else []
    for module in modules:
        module.to(device)
