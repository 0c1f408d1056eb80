"""What the studio does with what pages ask for: drawings at once, the rest as jobs, told to all pages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from latentopt.errors import LatentoptError, UsageError
from latentopt.studio import handwork, keeping, photos, works
from latentopt.studio.audience import DRAWING, JOB, Audience, Page, frame
from latentopt.studio.jobs import Job, Watch, perform
from latentopt.studio.messages import (
    Again,
    Align,
    Crop,
    Drag,
    Draw,
    Film,
    Invert,
    Keep,
    Lines,
    Message,
    Refine,
    Restore,
    Stop,
    Tune,
)
from latentopt.studio.places import picture_path
from latentopt.studio.session import Session, encoded
from latentopt.studio.worker import Full, Worker

MOST_REMEMBERED = 40  # jobs


class Studio:
    """A session, the worker that draws and optimises for it, and the pages that look on."""

    def __init__(self, session: Session) -> None:
        self.session, self.worker, self.audience = session, Worker(), Audience()
        self.jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)

    # ---- pages

    def welcome(self, page: Page) -> None:
        """Tell a page that has just opened all there is."""
        page.send({"kind": "hello", "about": self.session.about()})
        page.send(self._lists())
        for job in list(self.jobs.values()):
            page.send(job.whole(), key=f"job {job.id}")
            if job.picture:
                page.send(frame(JOB, job.id, job.picture), key=f"picture {job.id}")
        page.send({"kind": "ready"})

    def _lists(self) -> dict[str, Any]:
        return {"kind": "lists", "pictures": self.session.pictures(), "results": self.session.results()}

    def tell_lists(self) -> None:
        """Tell all pages which pictures and results there are now."""
        self.audience.tell(self._lists(), key="lists")

    def leave(self, page: Page) -> None:
        """A page has closed: nothing is drawn for it any more. Jobs go on."""
        self.audience.leave(page)
        self.worker.forget(lambda key: isinstance(key, tuple) and key[0] is page)

    def handle(self, page: Page, message: Message, ticket: int = 0) -> None:
        """Do what a page asks for, or tell it why not. Returns at once.

        ticket: the page's own number of what it asked for; it is told which job that became, or what was wrong.
        """
        try:
            if isinstance(message, Draw):
                self.worker.draw((page, message.slot), partial(self._draw, page, message))
            elif isinstance(message, Lines):
                commands = keeping.commands_of(self.session, message.look)
                page.send({"kind": "lines", "ticket": ticket, "commands": commands})
            elif isinstance(message, Stop):
                self._job(message.job).stop.set()
            elif isinstance(message, Again):
                self._again(self._job(message.job))
            else:
                self._begin(page, message, ticket)
        except LatentoptError as error:
            page.send({"kind": "error", "text": str(error), "ticket": ticket}, key="error")

    def _draw(self, page: Page, asked: Draw) -> None:
        try:
            picture = encoded(self.session.draw(asked.look))
        except Exception as error:  # a page waits for its picture, or for the reason why there is none
            text = str(error) if isinstance(error, LatentoptError) else f"{type(error).__name__}: {error}"
            page.send({"kind": "error", "text": text, "id": asked.id}, key=f"error {asked.slot}")
        else:
            page.send(frame(DRAWING, asked.id, picture), key=f"drawing {asked.slot}")

    # ---- jobs

    def _job(self, number: int) -> Job:
        if number not in self.jobs:
            raise UsageError(f"no job {number}")
        return self.jobs[number]

    def _begin(self, page: Page, message: Message, ticket: int) -> None:
        run, total, title, target = self._planned(message)
        job = Job(next(self._numbers), type(message).__name__.lower(), title, run, total, target)
        self.jobs[job.id] = job
        page.send({"kind": "accepted", "ticket": ticket, "job": job.id})  # before it can be done
        self._submit(job)
        ended = [job.id for job in self.jobs.values() if job.status not in ("waiting", "running")]
        for number in ended[: max(0, len(self.jobs) - MOST_REMEMBERED)]:
            del self.jobs[number]

    def _planned(self, message: Message) -> tuple[Callable[[Watch], dict[str, Any]], int, str, str]:
        """What to run, its steps, its title and the picture that it works on. Raises LatentoptError."""
        session = self.session
        if isinstance(message, Invert):
            return (*works.inversion(session, message), message.picture)
        if isinstance(message, Restore):
            return (*works.restoration(session, message), message.picture)
        if isinstance(message, Tune):
            return (*works.tuning(session, message), "")
        if isinstance(message, Refine):
            return (*works.refinement(session, message), "")
        if isinstance(message, Keep):
            return lambda watch: keeping.keep(session, message.look), 0, "saving", ""
        if isinstance(message, Film):
            return lambda watch: keeping.film(session, message.look), 0, "filming", ""
        if isinstance(message, Crop):
            path = picture_path(session.root, message.picture)
            return lambda watch: {"picture": photos.cropped(session.root, path, message.box)}, 0, "cropping", ""
        if isinstance(message, Drag):
            return handwork.dragging(session, message)
        assert isinstance(message, Align)
        return handwork.aligning(session, message)

    def _submit(self, job: Job) -> None:
        watch = Watch(job, self.audience.tell, self.worker.serve_drawings, lambda: len(self.audience) > 0)
        self.audience.tell(job.shown(), key=f"job {job.id}")
        try:
            self.worker.submit(partial(self._perform, job, watch))
        except Full as error:
            job.status, job.note = "failed", str(error)
            self.audience.tell(job.shown(), key=f"job {job.id}")

    def _perform(self, job: Job, watch: Watch) -> None:
        perform(job, watch)
        if job.status == "done":
            self.tell_lists()

    def _again(self, job: Job) -> None:
        if job.status in ("waiting", "running"):
            raise UsageError(f"{job.title}: is at work")
        job.stop.clear()
        job.status = "waiting"
        self._submit(job)

    def close(self) -> None:
        """End: what a job has reached is saved first."""
        for job in self.jobs.values():
            job.stop.set()
        self.worker.close(timeout=60)
