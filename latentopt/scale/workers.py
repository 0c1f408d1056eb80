"""Several processes on one machine: one a GPU, or one for some of the cores."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

import torch

from latentopt.devices import free_memory
from latentopt.errors import LatentoptError, UsageError
from latentopt.inverting.engine import Work
from latentopt.inverting.events import Event
from latentopt.inverting.items import Item, Unread
from latentopt.scale.driving import drive
from latentopt.scale.job import Answer, Hand, Job, job_of, surroundings
from latentopt.watching.interruption import Interrupted

MEMORY = 1.5e9  # bytes that a process on the CPU takes, or so
GOODBYE = 60.0  # seconds in which a worker has to save and end


@dataclass(frozen=True)
class Workers:
    """An engine (`latentopt.invert(engine=)`): `count` processes, or as many as there are GPUs or, without any, cores
    with memory for them. device: auto, cpu, cuda, or cuda:1 for one of them.

    lease, retries: see `latentopt.scale.ledger`; compiled: each compiles its generator; ledger: as in `OnRay`.
    """

    count: int | None = None
    device: str = "auto"
    lease: float = 60.0
    retries: int = 3
    compiled: bool = False
    ledger: str | None = None

    def __call__(self, work: Work, items: Sequence[Item | Unread], interrupted: Interrupted) -> Iterator[Event]:
        job = job_of(work, items, self.lease, self.retries, self.compiled, self.ledger)
        devices = worker_devices(self.count, self.device)
        return drive(job, Processes(job, devices), interrupted)


def worker_devices(count: int | None, device: str = "auto") -> list[str]:
    """The device of each worker. Raises UsageError for a count below 1."""
    if count is not None and count < 1:
        raise UsageError(f"{count} workers: at least 1 is needed")
    if device.startswith("cuda:") or device == "mps":
        return [device] * (count or 1)
    if device != "cpu" and torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        return [f"cuda:{i % gpus}" for i in range(count or gpus)]
    free = free_memory(torch.device("cpu"))
    fitting = cores() if free is None else max(1, min(cores(), int(free // MEMORY)))
    return ["cpu"] * (count or fitting)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes:
    """A crew of processes of this machine, one for each of `devices`; they end when this one does."""

    def __init__(self, job: Job, devices: Sequence[str]) -> None:
        self.packed, self.devices = job.packed(), list(devices)
        self.threads = max(1, cores() // len(devices))
        self.context = _context()
        self.hands: dict[int, tuple[BaseProcess, Connection, str]] = {}

    def wanted(self) -> int:
        return len(self.devices)

    def hire(self, number: int) -> None:
        used = [device for _, _, device in self.hands.values()]
        device = min(self.devices, key=lambda d: used.count(d) - self.devices.count(d))
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=serve,
            args=(theirs, self.packed, device, self.threads),
            daemon=True,
            name=f"latentopt worker {number}",
        )
        with _environment(surroundings(self.threads)):
            process.start()
        theirs.close()
        self.hands[number] = process, ours, device
        self.go_on(number)

    def go_on(self, number: int) -> None:
        with suppress(OSError):  # it has died, which is heard next
            self.hands[number][1].send("go on")

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer | None]]:
        by_pipe = {pipe: number for number, (_, pipe, _) in self.hands.items()}
        found: list[tuple[int, Answer | None]] = []
        for pipe in wait(list(by_pipe), seconds):
            assert isinstance(pipe, Connection)
            try:
                found.append((by_pipe[pipe], pipe.recv()))
            except (EOFError, OSError):
                found.append((by_pipe[pipe], None))
        return found

    def dismiss(self, number: int) -> None:
        process, pipe, _ = self.hands.pop(number)
        pipe.close()
        process.join(1.0)

    def stop(self) -> None:
        for _, pipe, _ in self.hands.values():
            pipe.close()  # a worker that hears no more saves and ends
        for process, _, _ in self.hands.values():
            process.join(GOODBYE)
        self.kill()

    def kill(self) -> None:
        for process, _, _ in self.hands.values():
            if process.is_alive():
                process.kill()
            process.join()
        self.hands.clear()


def _context() -> SpawnContext | ForkServerContext:
    """Workers are forked from a process that has all imported and nothing else, so that one is replaced in a moment;
    where the system cannot do that, each imports by itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that begin within it have these variables from their first import on."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(pipe: Connection, packed: bytes, device: str, threads: int) -> None:
    """A worker's life: a batch whenever it is told to go on; it saves and ends when nobody is there any more, or by
    SIGTERM. Ctrl-C is for the one who called.
    """
    import pickle

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    told: queue.Queue[bool] = queue.Queue()

    def hear() -> None:
        with suppress(EOFError, OSError):
            while True:
                pipe.recv()
                told.put(True)
        stop.set()
        told.put(False)

    threading.Thread(target=hear, daemon=True).start()
    with suppress(OSError, KeyboardInterrupt):  # nobody is there to be answered
        try:
            hand = Hand(pickle.loads(packed), device, threads, lambda text: pipe.send(Answer("told", text=text)))
        except (LatentoptError, ImportError, RuntimeError) as error:
            pipe.send(Answer("fatal", text=f"a worker on {device} cannot begin: {error}"))
            return
        while told.get() and not stop.is_set():
            answer = hand.next(stop.is_set)
            pipe.send(answer)
            if answer.kind == "failed":
                return
