"""One thread does all work on the generator: jobs in turn and, between their steps, drawings that pages wait for."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

Work = Callable[[], object]
MOST_JOBS = 16


class Full(Exception):
    """More jobs wait than are taken."""


class Worker:
    """Drawings replace those that wait under the same key, so that a slider never queues stale frames."""

    def __init__(self) -> None:
        self._drawings: OrderedDict[Hashable, Work] = OrderedDict()
        self._jobs: deque[Work] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="studio", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def draw(self, key: Hashable, work: Work) -> None:
        """Do `work` soon; what waits under `key` is dropped."""
        with self._changed:
            self._drawings[key] = work
            self._changed.notify()

    def forget(self, keys: Callable[[Hashable], bool]) -> None:
        """Drop the drawings that wait under such keys."""
        with self._changed:
            for key in [key for key in self._drawings if keys(key)]:
                del self._drawings[key]

    def submit(self, job: Work) -> None:
        """Do a job when its turn comes. Raises Full."""
        with self._changed:
            if len(self._jobs) >= MOST_JOBS:
                raise Full(f"{MOST_JOBS} jobs are waiting already; let some finish first")
            self._jobs.append(job)
            self._changed.notify()

    def close(self, timeout: float | None = None) -> None:
        """End after what is at work."""
        with self._changed:
            self._closing = True
            self._jobs.clear()
            self._drawings.clear()
            self._changed.notify()
        self._thread.join(timeout)

    def serve_drawings(self) -> None:
        """Do all drawings that wait: a job calls this between its steps."""
        while (work := self._next_drawing()) is not None:
            _do(work)

    def _next_drawing(self) -> Work | None:
        with self._changed:
            return self._drawings.popitem(last=False)[1] if self._drawings else None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._drawings or self._jobs or self._closing)
                if self._closing:
                    return
            self.serve_drawings()
            with self._changed:
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                _do(job)


def _do(work: Work) -> None:
    """Whatever goes wrong that nobody has thought of, the thread goes on."""
    try:
        work()
    except Exception:
        logging.getLogger("latentopt").exception("the studio's worker")
