"""The one loop of every training: steps until all are done, snapshots on the way, resumed exactly wherever it stopped.

A `Trainer` knows one step and all that a step changes. A `Training` is a trainer at work in a folder, where its
snapshot, its records and what it leaves for others are kept.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from latentopt.files.outputs import refuse_link
from latentopt.training.snapshots import (
    check_agrees,
    check_like,
    check_moments,
    lay_out_moments,
    load_snapshot,
    restoring,
    save_snapshot,
    state_of,
    whole_state,
)

Record = TypeVar("Record")
SNAPSHOT_SECONDS = 240.0


class Trainer(ABC, Generic[Record]):
    """Something that is trained step by step. A trainer that loads a snapshot continues to the bit.

    settings  a dataclass; a snapshot is continued with equal settings only, those in `free` excepted
    step      how many steps were made
    """

    settings: Any
    device: torch.device
    step: int = 0
    free: ClassVar[frozenset[str]] = frozenset({"precision"})

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The attributes that a step changes: their `state_dict` goes into a snapshot under their name."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many steps there are in all."""

    @abstractmethod
    def update(self) -> Record:
        """Make one step and count it. Whatever is random in it depends on the seed and the step alone."""

    @property
    def made_from(self) -> dict[str, object]:
        """What else a snapshot must agree in, such as the fingerprint of the generator that is started from."""
        return {}

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def train(self) -> Iterator[Record]:
        """Make all steps that are left, yielding a record for each; stop iterating to stop early."""
        while not self.done:
            yield self.update()

    def agree(self, asked: bool) -> bool:
        """Whether to stop, the same answer in every process that takes part."""
        return asked

    def state(self) -> dict[str, Any]:
        """All that a snapshot holds."""
        said = {"settings": json.dumps(asdict(self.settings)), "made": json.dumps(self.made_from)}
        return {name: state_of(getattr(self, name)) for name in self.parts} | {"step": self.step} | said

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a snapshot. Raises KeyError, TypeError, ValueError, RuntimeError for a damaged one."""
        step = state["step"]
        if type(step) is not int or step < 0:
            raise ValueError(f"step {step!r}")
        for name in self.parts:
            part = getattr(self, name)
            check_like(state[name], part.state_dict(), name)
            part.load_state_dict(whole_state(part, state[name]))
            if isinstance(part, torch.optim.Optimizer):
                check_moments(part)
                lay_out_moments(part)
        self.step = step

    def save(self, path: Path) -> None:
        """Write a snapshot from which `load` continues exactly."""
        save_snapshot(path, self.state())

    def load(self, path: Path) -> None:
        """Continue from a snapshot. Raises CheckpointError where it is damaged, or was made with something else."""
        state = load_snapshot(path)
        mine = {key: value for key, value in asdict(self.settings).items() if key not in self.free}
        defaults = {field.name: field.default for field in fields(self.settings)}
        check_agrees(path, state, mine | self.made_from, defaults)
        with restoring(path):
            self.restore(state)


def nothing_to_log(record: Any) -> None:
    """No record is worth a line."""


@dataclass
class Training(Generic[Record]):
    """A trainer and what is kept of its work. It trains as it is iterated, yielding a record for each step.

    snapshot  the file that is written every `every` seconds, when the training is stopped, and at the end; or None
    export    called after each snapshot, to write what the training leaves for others
    notes     what its user should be told first, such as pictures that could not be read
    log       a file that gets what `logged` makes of a record as a line of JSON; None stands for no line
    writes    False in all processes but the first, where several train together: they read the snapshot alone
    """

    trainer: Trainer[Record]
    snapshot: Path | None = None
    export: Callable[[], None] = lambda: None
    notes: tuple[str, ...] = ()
    log: Path | None = None
    logged: Callable[[Record], Mapping[str, object] | None] = nothing_to_log
    every: float = SNAPSHOT_SECONDS
    writes: bool = True

    def __post_init__(self) -> None:
        if self.log is not None:
            refuse_link(self.log)
        if self.snapshot is not None and self.snapshot.exists():
            self.trainer.load(self.snapshot)

    def __iter__(self) -> Iterator[Record]:
        return self.run()

    def run(self, minutes: float | None = None, interrupted: Callable[[], bool] = lambda: False) -> Iterator[Record]:
        """Train to the end, for so many minutes, or until `interrupted` says so after a step; the same call goes on."""
        kept = time.monotonic()
        ends = math.inf if minutes is None else kept + 60 * minutes
        if self.log is not None:
            self.log.touch()
        while not self.trainer.done:
            record = self.trainer.update()
            self._log(record)
            now = time.monotonic()
            stop = self.trainer.agree(interrupted() or now > ends)
            if stop or now - kept > self.every:
                self.keep()
                kept = time.monotonic()
            yield record
            if stop:
                return
        self.keep()  # also where no step was left: an earlier run may have ended between its snapshot and its export

    def keep(self) -> None:
        """Write the snapshot, then what the training leaves for others."""
        if not self.writes:
            return
        if self.snapshot is not None:
            self.trainer.save(self.snapshot)
        self.export()

    def _log(self, record: Record) -> None:
        entry = None if self.log is None else self.logged(record)
        if self.log is not None and entry is not None:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")


@torch.no_grad()
def average_(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the weights of `average` by `1 - decay` towards those of `network`; its buffers become the network's.

    The step is that of torch's AveragedModel. The class itself does not fit: its first update copies the weights, where
    an average here starts from the first ones; its decay follows the number of updates, here of images; and the names
    in its state are not those of our snapshots and files.
    """
    kept, current = list(average.parameters()), list(network.parameters())
    if kept:
        get_ema_multi_avg_fn(decay)(kept, current, None)
    for buffer, now in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(now)
