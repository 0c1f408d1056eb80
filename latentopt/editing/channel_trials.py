"""What a judge reads of a generator's samples as they are, and with single channels of StyleSpace moved.

n samples, A attributes, N channels. Readings are compared in deviations over the samples, binary attributes by their
log-odds, as GANalyze's directions are measured (`latentopt.editing.ganalyze`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentopt.editing.scaling import in_deviations
from latentopt.judge.protocol import AttributeJudge, log_odds, read
from latentopt.protocols import Generator
from latentopt.statistics.sampling import drawn_at_once
from latentopt.types import ADDS, GeneratorInputs

if TYPE_CHECKING:
    from latentopt.editing.channels import Channel

BATCH = 16
REACH = 3.0  # standard deviations by which a channel is moved, either way

Watch = Callable[[int, str, str], AbstractContextManager[Callable[[int], object]]]
"""(total, label, unit) -> a context whose value is called with how many more are done: a progress bar, for one."""


def unwatched(total: int, label: str, unit: str) -> AbstractContextManager[Callable[[int], object]]:
    """Shows nothing."""
    return nullcontext(lambda count: None)


@torch.no_grad()
def read_drawn(generator: Generator, judge: AttributeJudge, inputs: GeneratorInputs) -> Tensor:
    """[B,A] on the CPU in float64, binary attributes as log-odds, NaN for what was not found. Raises UsageError."""
    return log_odds(judge, read(judge, generator.synthesis(inputs).float().clamp(-1, 1)))


def read_samples(generator: Generator, judge: AttributeJudge, codes: Tensor, watch: Watch = unwatched) -> Tensor:
    """What the judge reads of samples w [n,C]: [n,A]. Raises UsageError."""
    found = []
    with watch(len(codes), "judging", "sample") as advance:
        for w in codes.split(drawn_at_once(generator, BATCH)):
            found.append(read_drawn(generator, judge, GeneratorInputs(generator.broadcast(w.to(generator.device)))))
            advance(len(w))
    return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Trials:
    """Samples to try channels on: codes [n,C], what is read of them as they are [n,A], the attributes' deviations [A].

    An attribute whose deviation is 0 has no unit, and counts for nothing.
    """

    generator: Generator
    judge: AttributeJudge
    codes: Tensor
    readings: Tensor
    scales: Tensor

    def effects(
        self, channels: Sequence[Channel], moves: Sequence[tuple[int, int]], watch: Watch = unwatched
    ) -> Tensor:
        """How far each channel moves each attribute when it rises by `REACH`, in deviations: [N,A].

        moves: (sample, 1 or -1), where the channel rises or falls; what it does is the mean over these, of the pictures
        that the judge reads something of. Raises UsageError.
        """
        jobs = [(channel, *move) for channel in channels for move in moves]
        size, found = drawn_at_once(self.generator, BATCH), []
        with watch(len(jobs), "moving channels", "picture") as advance:
            for part in (jobs[i : i + size] for i in range(0, len(jobs), size)):
                found.append(self._risen(part))
                advance(len(part))
        risen = torch.cat(found).unflatten(0, (len(channels), len(moves)))  # [N,m,A]
        return risen.nanmean(dim=1).nan_to_num()

    def _risen(self, jobs: Sequence[tuple[Channel, int, int]]) -> Tensor:
        """The change [B,A] that each job makes, turned where the channel falls."""
        rows = torch.tensor([sample for _, sample, _ in jobs])
        signs = torch.tensor([sign for _, _, sign in jobs]).double()
        ws = self.generator.broadcast(self.codes[rows.to(self.codes.device)].to(self.generator.device))
        styles: dict[str, Tensor] = {}
        for row, (channel, _, sign) in enumerate(jobs):  # of several channels at once: each in its own picture
            added = styles.setdefault(ADDS + channel.layer, ws.new_zeros(len(jobs), channel.width))
            added[row, channel.channel] = sign * REACH * channel.std
        change = read_drawn(self.generator, self.judge, GeneratorInputs(ws, styles=styles)) - self.readings[rows]
        return in_deviations(change, self.scales) * signs[:, None]
