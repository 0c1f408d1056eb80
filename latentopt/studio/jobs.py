"""Long work: one job at a time, told to the pages as it goes on, stopped and gone on with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentopt.errors import InversionFailed, LatentoptError
from latentopt.inverting.events import Event, Failed, Finished, Measured, Noted, Progressed
from latentopt.studio.audience import JOB, frame
from latentopt.studio.session import encoded
from latentopt.watching.phases import listening

if TYPE_CHECKING:
    from torch import Tensor

SHOWN_EVERY = 0.25  # seconds between pictures of a job at work
CURVE = 400  # points of a loss curve that are kept for pages that open later


@dataclass
class Job:
    """A piece of long work. `run` does it and returns what came of it: plain data, with `base` where it is a result."""

    id: int
    kind: str
    title: str
    run: Callable[[Watch], dict[str, Any]]
    total: int = 0  # steps
    target: str = ""  # the picture it works on
    status: str = "waiting"  # running, done, stopped, failed
    step: int = 0
    left: float | None = None  # seconds
    note: str = ""
    made: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    picture: bytes = b""
    stop: threading.Event = field(default_factory=threading.Event)

    def shown(self) -> dict[str, Any]:
        """What pages know of it, but for the curve and the picture."""
        names = ("id", "kind", "title", "total", "target", "status", "step", "left", "note", "made")
        return {"kind": "job", "job": {name: getattr(self, name) for name in names}}

    def whole(self) -> dict[str, Any]:
        """All that a page needs which opens in the middle of it."""
        shown = self.shown()
        shown["job"]["curve"] = list(self.curve)
        return shown


class Watch:
    """What a job at work is watched by: `on_event` and `interrupted` of `latentopt.invert`, and a Listener to phases.

    tell: sends pages a message; pause: called after each step, for what must not wait for the end; watched: whether
    there is anybody to see pictures.
    """

    def __init__(
        self, job: Job, tell: Callable[..., None], pause: Callable[[], None], watched: Callable[[], bool]
    ) -> None:
        self.job, self.tell_pages, self.pause, self.watched = job, tell, pause, watched
        self.finished: list[str] = []
        self._shown = self._told = 0.0
        self._seconds, self._steps = 0.0, 0

    def interrupted(self) -> bool:
        return self.job.stop.is_set()

    def on_event(self, event: Event) -> None:
        if isinstance(event, Progressed):
            best = event.step.best_loss or event.step.loss
            before = sum(stage.steps + 1 for stage in event.batch.recipe.stages[: event.stage])
            self.stepped(min(best, default=float("nan")), event.step.seconds, before + event.step.step + 1)
            if self.due() and event.batch.rows():
                self.show(event.batch.current_images()[1][0])
        elif isinstance(event, Measured):
            self.say("measuring what else the tuning changed")
        elif isinstance(event, Finished):
            self.finished.append(event.inversion.name)
            self.show(event.inversion.image)
        elif isinstance(event, Noted | Failed):
            self.say(event.text if isinstance(event, Noted) else event.reason)
        self.pause()

    def stepped(self, loss: float, seconds: float, step: int) -> None:
        """So many steps are done, the last in so many seconds; its loss is a point of the curve where it is finite."""
        job = self.job
        job.step = step
        self._seconds, self._steps = self._seconds + seconds, self._steps + 1
        job.left = self._seconds / self._steps * max(job.total - job.step, 0)
        if abs(loss) < float("inf"):
            job.curve.append((job.step, loss))
            if len(job.curve) > CURVE:
                del job.curve[1:-1:2]  # half as dense, both ends kept
        message = {"kind": "progress", "id": job.id, "step": job.step, "total": job.total, "left": job.left}
        self.tell_pages(message | {"point": job.curve[-1] if job.curve else None}, key=f"progress {job.id}")

    def due(self) -> bool:
        """Whether it is time for a picture, and somebody looks."""
        return self.watched() and time.monotonic() - self._shown > SHOWN_EVERY

    def show(self, image: Tensor) -> None:
        """How the picture [C,H,W] looks by now."""
        self._shown = time.monotonic()
        self.job.picture = encoded(image.nan_to_num())
        self.tell_pages(frame(JOB, self.job.id, self.job.picture), key=f"picture {self.job.id}")

    def say(self, text: str) -> None:
        """A line about what is going on."""
        self.job.note = text[:500]
        self.tell_pages(self.job.shown(), key=f"job {self.job.id}")

    tell = say  # a Listener's name for it

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        """A Listener's: what takes a while before or after the steps."""
        self.say(label)

        def advance(count: int) -> None:
            self.pause()

        yield advance


def perform(job: Job, watch: Watch) -> None:
    """Do a job; whatever becomes of it is its status."""
    if job.stop.is_set():
        job.status = "stopped"
        return
    job.status, job.note = "running", ""
    watch.say("")
    try:
        with listening(watch):
            job.made = job.run(watch)
        job.status, job.left = "done", 0.0
    except KeyboardInterrupt:
        job.status, job.note = "stopped", "stopped; what was reached is saved"
    except InversionFailed as error:
        job.status, job.note = "failed", str(error)
    except LatentoptError as error:
        job.status, job.note = "failed", str(error)
    except Exception as error:  # one job must not end the studio
        job.status, job.note = "failed", f"{type(error).__name__}: {error}"
    finally:
        job.left = job.left if job.status == "running" else None
        watch.tell_pages(job.whole(), key=f"job {job.id}")
