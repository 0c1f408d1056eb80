"""Following a training from the command line: its progress, its end, its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import click

from latentopt.commands.interrupting import interruptible
from latentopt.files.text import one_line
from latentopt.watching.interruption import holding

if TYPE_CHECKING:
    from latentopt.training.generator_settings import TrainingStep
    from latentopt.training.loop import Training

Record = TypeVar("Record")


def command_line() -> str:
    """The command as it was given, for the card of what it makes."""
    return " ".join(["latentopt", *sys.argv[1:]])


def follow_training(
    training: Training[Record],
    label: str,
    shown: Callable[[Record], Mapping[str, object]],
    *,
    unit: str = "step",
    per_step: int = 1,
    minutes: float | None = None,
    quiet: bool = False,
) -> int:
    """Train until done (exit code 0), the time is up (0), or interrupted (130), showing some figures of each record.

    Progress counts in units, of which there are `per_step` in a step.
    """
    from latentopt.commands.progress import Progress

    trainer, quiet = training.trainer, quiet or not training.writes
    total, done = trainer.steps * per_step, trainer.step * per_step
    if training.writes:
        for note in training.notes:
            click.echo(one_line(note), err=True)
        if done:
            click.echo(f"going on after {done:,} {unit}{'s' * (done != 1)}", err=True)
    line = Progress(total, label, unit=unit, done=done, quiet=quiet)
    with interruptible() as interrupted, holding(interrupted), line as progress:
        for record in training.run(minutes, interrupted):
            progress.advance(per_step, **shown(record))
        return 130 if interrupted() else 0


def follow_adversarial(training: Training[TrainingStep], minutes: float | None, quiet: bool) -> int:
    """`follow_training` of a generator and its discriminator, counting images."""
    batch = training.trainer.settings.batch
    return follow_training(training, "training", _losses, unit="image", per_step=batch, minutes=minutes, quiet=quiet)


def _losses(record: TrainingStep) -> dict[str, float]:
    return {"d_loss": record.d_loss, "g_loss": record.g_loss}
