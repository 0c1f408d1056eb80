"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

import click

from latentopt.files.text import escape_controls
from latentopt.watching.phases import Advance, listening

if TYPE_CHECKING:
    import rich.progress

PATIENCE = 2.0  # seconds that may pass without a word


class Progress:
    """Counts towards `total` and shows rate, time left and named fields, on stderr.

    `with Progress(total, "inverting", unit="step") as progress: progress.advance(1, loss=0.12, image="a.png")`.
    `done` is what an earlier run had already done: it fills the bar but does not count in the rate. Phases that begin
    meanwhile (`latentopt.watching.phases`) are shown below it, and their time is not counted in the rate. within: the
    bar that this one is shown below; brief: nothing is shown, also at the end, of what takes less than `PATIENCE`.
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
        within: Progress | None = None,
        brief: bool = False,
    ) -> None:
        self.total, self.label, self.unit, self.quiet, self.interval = total, label, unit, quiet, interval
        self.done = self.before = self.told = done
        self.stream = sys.stderr if stream is None else stream
        self.within, self.brief = within, brief
        self.fields: dict[str, object] = {}
        self.bar: rich.progress.Progress | None = None
        self.task: rich.progress.TaskID | None = None
        self.elsewhere = 0.0  # seconds of phases
        self.context = ExitStack()
        self._begin()

    def _begin(self) -> None:
        self.started = time.monotonic()
        self.shown = self.started - self.interval + min(PATIENCE, self.interval)

    def __enter__(self) -> Self:
        self._begin()
        if self.stream.isatty() and not self.quiet and not self.brief:
            self._show_bar()
        self.context.enter_context(listening(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()
        if self.bar is not None and self.task is not None:
            if self.within is None:
                self.bar.stop()
            else:
                self.bar.remove_task(self.task)
        elif (
            not self.quiet and self.done > max(self.before, self.told) and (not self.brief or self.seconds >= PATIENCE)
        ):
            self._print_line()

    def advance(self, n: int = 1, **fields: object) -> None:
        """`n` more are done; `fields` replace the named values shown, such as `loss=0.1`."""
        self.done += n
        self.fields.update(fields)
        if self.quiet:
            return
        if self.stream.isatty():
            if self.bar is None and self.seconds >= PATIENCE / 2:
                self._show_bar()
            if self.bar is not None and self.task is not None:
                self.bar.update(self.task, completed=self.done, note=self._note())
        elif self.done < self.total and time.monotonic() - self.shown >= self.interval:
            self._print_line()

    def _print_line(self) -> None:
        self.shown, self.told = time.monotonic(), self.done
        print(self._line(), file=self.stream, flush=True)

    def reach(self, done: int) -> None:
        """At least so many are done; those that were not counted do not count in the rate."""
        skipped = max(done - self.done, 0)
        self.before += skipped
        if skipped:
            self.advance(skipped)

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if not self.quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        bar = self.bar if self.bar is not None or self.within is None else self.within.bar
        if bar is not None:
            bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def tell(self, text: str) -> None:
        """A line of the work itself, as `latentopt.watching.phases.tell` has it; without progress too."""
        self._print(escape_controls(text))

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """A phase of the work, shown below this one where it takes long."""
        with Progress(
            total, label, unit=unit, quiet=self.quiet, stream=self.stream, within=self, brief=True
        ) as progress:
            try:
                yield progress.advance
            finally:
                self.elsewhere += progress.seconds
                self.shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start of this run, phases left out."""
        return time.monotonic() - self.started - self.elsewhere

    @property
    def rate(self) -> float:
        """Done per second since the start of this run."""
        return (self.done - self.before) / max(self.seconds, 1e-9)

    def _note(self) -> str:
        values = [f"{key}={f'{v:.4g}' if isinstance(v, float) else v}" for key, v in self.fields.items()]
        return "  ".join([f"{self.rate:,.4g} {self.unit}/s", *values])

    def _line(self) -> str:
        share = f"{100 * self.done / max(self.total, 1):.0f} %"
        seconds = (
            f"{(self.total - self.done) / max(self.rate, 1e-9):.0f} s left"
            if self.done < self.total
            else f"{self.seconds:.1f} s"
        )
        return f"{self.label} {self.done:,}/{self.total:,} ({share})  {seconds}  {self._note()}"

    def _show_bar(self) -> None:
        if self.within is not None and self.within.bar is not None:
            self.bar = self.within.bar
        else:
            self.within, self.bar = None, self._new_bar()
            self.bar.start()
        self.task = self.bar.add_task(self.label, total=self.total, completed=self.done, note="")

    def _new_bar(self) -> rich.progress.Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        return Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=self.stream),
            transient=self.brief,
        )


class Terminal:
    """What a command shows of phases where it has no progress line of its own."""

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        with Progress(total, label, unit=unit, quiet=_is_quiet(), brief=True) as progress:
            yield progress.advance

    def tell(self, text: str) -> None:
        click.echo(escape_controls(text), err=True)


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get("quiet"))
