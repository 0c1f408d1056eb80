"""Many machines: actors on a Ray cluster, one a device, over the same ledger on a disk that all of them see."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentopt.errors import LatentoptError, UsageError
from latentopt.inverting.engine import Work
from latentopt.inverting.events import Event
from latentopt.inverting.items import Item, Unread
from latentopt.scale.driving import drive
from latentopt.scale.job import Answer, Hand, Job, job_of, surroundings
from latentopt.watching.interruption import Interrupted

LOOK = 5.0  # seconds after which the cluster is asked again how many devices it has
GOODBYE = 60.0  # seconds in which an actor has to save


@dataclass(frozen=True)
class OnRay:
    """An engine (`latentopt.invert(engine=)`): an actor on each GPU of the cluster or, where it has none, on each CPU.

    address: of a Ray cluster, as `ray.init` takes it; "auto" is the one at hand or, without any, this machine.
    most: actors at most; lease, retries: see `latentopt.scale.ledger`; compiled: each compiles its generator;
    ledger: the address where claims are kept, as fsspec has it (s3://bucket/run), by default in the output folder.
    """

    address: str = "auto"
    most: int | None = None
    lease: float = 60.0
    retries: int = 3
    compiled: bool = False
    ledger: str | None = None

    def __call__(self, work: Work, items: Sequence[Item | Unread], interrupted: Interrupted) -> Iterator[Event]:
        connect(self.address)
        job = job_of(work, items, self.lease, self.retries, self.compiled, self.ledger)
        return drive(job, Actors(job, self.most), interrupted)


def connect(address: str) -> None:
    """Join the cluster. Raises UsageError without Ray, or where there is no cluster at an address."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs Ray: pip install 'latentopt[ray]'")
    import ray

    if ray.is_initialized():
        return
    settings: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False, "logging_level": "warning"}
    try:
        ray.init(address=None if address == "auto" else address, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address == "auto":
            raise LatentoptError(f"Ray does not begin: {error}") from error
        raise UsageError(f"--ray {address}: no cluster answers there ({error})") from error


class Seat:
    """What an actor is: a hand that takes a batch each time it is asked, and hears meanwhile that it is to stop.

    fetch: gets the packed job. It is no argument itself, since Ray pins those in the store's memory, and does not let
    them go where the caller is killed while an actor begins: the next caller's actors would wait for room for ever.
    """

    def __init__(self, fetch: Callable[[], bytes], device: str, threads: int) -> None:
        import pickle

        self.stopping = threading.Event()
        self.lines: list[str] = []
        self.broken = ""
        try:
            job: Job = pickle.loads(fetch())
            if not job.out.is_dir():
                raise LatentoptError(f"{job.out}: not seen from {os.uname().nodename}; it must be on a shared disk")
            self.hand = Hand(job, device, threads, self.lines.append)
        except (LatentoptError, ImportError, RuntimeError, OSError) as error:
            self.broken = f"an actor on {device} cannot begin: {error}"

    def next(self) -> tuple[list[str], Answer]:
        """A batch, and the lines that were told meanwhile."""
        if self.broken:
            return [], Answer("fatal", text=self.broken)
        try:
            answer = self.hand.next(self.stopping.is_set)
        except KeyboardInterrupt:
            answer = Answer("idle")
        told = list(self.lines)
        self.lines.clear()
        return told, answer

    def stop(self) -> None:
        self.stopping.set()

    def process(self) -> int:
        """Its number on its machine."""
        return os.getpid()


class Actors:
    """A crew of Ray's actors. Each has one batch in hand, so that none wait in a queue; the job is in the object store
    once for all of them.
    """

    def __init__(self, job: Job, most: int | None) -> None:
        import ray

        self.ray, self.most = ray, most
        fetch = partial(ray.get, ray.put(job.packed()))
        self.on_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        threads = 4 if self.on_gpus else 1
        resources = {"num_gpus": 1} if self.on_gpus else {"num_cpus": 1}
        remote: Any = ray.remote
        made = remote(max_restarts=0, max_concurrency=2, runtime_env={"env_vars": surroundings(threads)}, **resources)(
            Seat
        )
        self.make = lambda: made.remote(fetch, "cuda" if self.on_gpus else "cpu", threads)
        self.actors: dict[int, Any] = {}
        self.asked: dict[Any, int] = {}
        self.count, self.looked = 0, -LOOK

    def wanted(self) -> int:
        if time.monotonic() - self.looked >= LOOK:
            self.looked = time.monotonic()
            self.count = int(self.ray.cluster_resources().get("GPU" if self.on_gpus else "CPU", 0))
        return self.count if self.most is None else min(self.count, self.most)

    def hire(self, number: int) -> None:
        self.actors[number] = self.make()
        self.go_on(number)

    def go_on(self, number: int) -> None:
        self.asked[self.actors[number].next.remote()] = number

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer | None]]:
        if not self.asked:
            time.sleep(seconds)
            return []
        ready, _ = self.ray.wait(list(self.asked), num_returns=1, timeout=seconds)
        found: list[tuple[int, Answer | None]] = []
        for reference in ready:
            number = self.asked.pop(reference)
            try:
                told, answer = self.ray.get(reference)
                found += [(number, Answer("told", text=line)) for line in told] + [(number, answer)]
            except self.ray.exceptions.RayError:  # the actor or its machine is gone
                found.append((number, None))
        return found

    def dismiss(self, number: int) -> None:
        with suppress(KeyError):
            self.ray.kill(self.actors.pop(number))
        self.asked = {reference: n for reference, n in self.asked.items() if n != number}

    def stop(self) -> None:
        for actor in self.actors.values():
            actor.stop.remote()
        if self.asked:
            self.ray.wait(list(self.asked), num_returns=len(self.asked), timeout=GOODBYE)
        self.kill()

    def kill(self) -> None:
        for number in list(self.actors):
            self.dismiss(number)
