"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    import rich.progress


class Progress:
    """Counts towards `total` and shows rate, time left and named fields, on stderr.

    `with Progress(total, "inverting", unit="step") as progress: progress.advance(1, loss=0.12, image="a.png")`.
    `done` is what an earlier run had already done: it fills the bar but does not count in the rate.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        done: int = 0,
        unit: str = "it",
        quiet: bool = False,
        interval: float = 5.0,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.label, self.unit, self.quiet, self.interval = total, label, unit, quiet, interval
        self.done = self.before = done
        self.stream = sys.stderr if stream is None else stream
        self.fields: dict[str, object] = {}
        self.bar: rich.progress.Progress | None = None
        self.task: rich.progress.TaskID | None = None
        self.started = self.shown = time.monotonic()

    def __enter__(self) -> Self:
        self.started = self.shown = time.monotonic()
        if self.stream.isatty() and not self.quiet:
            self._start_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif not self.quiet and self.done > self.before:
            print(self._line(), file=self.stream, flush=True)

    def advance(self, n: int = 1, **fields: object) -> None:
        """`n` more are done; `fields` replace the named values shown, such as `loss=0.1`."""
        self.done += n
        self.fields.update(fields)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, note=self._note())
        elif not self.quiet and self.done < self.total and time.monotonic() - self.shown >= self.interval:
            self.shown = time.monotonic()
            print(self._line(), file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    @property
    def rate(self) -> float:
        """Done per second since the start of this run."""
        return (self.done - self.before) / max(time.monotonic() - self.started, 1e-9)

    def _note(self) -> str:
        values = [f"{key}={f'{v:.4g}' if isinstance(v, float) else v}" for key, v in self.fields.items()]
        return "  ".join([f"{self.rate:,.4g} {self.unit}/s", *values])

    def _line(self) -> str:
        share = f"{100 * self.done / max(self.total, 1):.0f} %"
        seconds = (
            f"{(self.total - self.done) / max(self.rate, 1e-9):.0f} s left"
            if self.done < self.total
            else f"{time.monotonic() - self.started:.1f} s"
        )
        return f"{self.label} {self.done:,}/{self.total:,} ({share})  {seconds}  {self._note()}"

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        note = TextColumn("{task.fields[note]}", markup=False)
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            note,
            console=Console(file=self.stream),
        )
        self.task = self.bar.add_task(self.label, total=self.total, completed=self.done, note="")
        self.bar.start()
