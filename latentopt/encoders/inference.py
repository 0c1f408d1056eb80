"""Encoding as one map from pictures to codes: one encoder, bootstrapped by another, or mixed with another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from latentopt.encoders.encoder import Encoder
from latentopt.encoders.heads import resized
from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded for `generator`.

    steps      of a ReStyle encoder, its own number by default
    bootstrap  another encoder and its generator, whose first result the steps begin with (ReStyle, section 4.4)
    mix        another encoder whose codes are mixed in: `share` 0 gives the first one's, 1 the other's. Between pSp and
               e4e that is the dial from low distortion to editability (e4e, section 8.2)
    stage      of an e4e encoder: the last row with an offset of its own; 0: one code for all rows
    """

    generator: Generator
    encoder: Encoder
    steps: int | None = None
    bootstrap: tuple[Encoder, Generator] | None = None
    mix: Encoder | None = None
    share: float = 0.5
    stage: int | None = None

    def __post_init__(self) -> None:
        if self.bootstrap is not None and not self.encoder.config.iterative:
            raise UsageError(f"{self.encoder.name}: a one-pass encoder takes no start; bootstrapping needs ReStyle's")
        if not 0 <= self.share <= 1:
            raise UsageError(f"share must lie between 0 and 1, not {self.share}")

    def __call__(self, target: Tensor) -> list[GeneratorInputs]:
        """The codes of target [B,3,H,W] in [-1,1] after each step; mixed codes are one step."""
        start, image = self._start(target)
        found = self.encoder.encode(self.generator, target, self.steps, start, image, self.stage)
        if self.mix is None:
            return found
        other = self.mix.encode(self.generator, target)[-1]
        return [GeneratorInputs(torch.lerp(found[-1].ws, other.ws, self.share))]

    def begin(self, target: Tensor) -> tuple[GeneratorInputs, Tensor]:
        """What the steps begin with, and its picture [B,3,H,W]: the average latent, or the bootstrap's result."""
        start, image = self._start(target)
        if start is None:
            average = self.encoder.average(self.generator)
            if not self.encoder.config.start_from_average:
                average = self.generator.broadcast(self.generator.w_avg[None])
            start = GeneratorInputs(average.detach().expand(len(target), -1, -1).clone())
        with torch.no_grad():
            image = self.generator.synthesis(start).float() if image is None else image
        return start, resized(image, self.generator.resolution)

    @torch.no_grad()
    def _start(self, target: Tensor) -> tuple[GeneratorInputs | None, Tensor | None]:
        if self.bootstrap is None:
            return None, None
        encoder, generator = self.bootstrap
        start = encoder.encode(generator, target, 1)[-1]
        return start, generator.synthesis(start).float()

    @cached_property
    def record(self) -> Mapping[str, object]:
        """What goes into a result's manifest."""
        steps = self.encoder.default_steps if self.steps is None else self.steps
        record: dict[str, object] = {**_about(self.encoder), "steps": steps}
        if self.stage is not None:
            record["stage"] = self.stage
        if self.bootstrap is not None:
            encoder, generator = self.bootstrap
            record["bootstrap"] = {**_about(encoder), "generator": generator.fingerprint}
        if self.mix is not None:
            record["mix"] = {**_about(self.mix), "share": self.share}
        return record


def _about(encoder: Encoder) -> dict[str, object]:
    return {"name": encoder.name, "kind": encoder.config.kind, "fingerprint": encoder.fingerprint}
