"""Starts by an encoder: what pSp, e4e or ReStyle make of the picture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from latentopt.encoders.inference import Encoding
from latentopt.protocols import Generator, Initializer
from latentopt.types import GeneratorInputs


class EncoderStart(Initializer):
    """An encoder's codes.

    path               the encoder's file; without one the bundled encoder of that `kind` for the generator
    steps              of ReStyle, by default as many as it was trained with
    bootstrap          an encoder (kind or file) whose result ReStyle's steps begin with; bootstrap_network: its generator
    stage              of e4e: the last row with an offset of its own; 0: one code for all rows
    mix, share         an encoder (kind or file) whose codes are mixed in, and how much of them
    force              also take encoders that were trained for another generator
    """

    def __init__(
        self,
        generator: Generator,
        *,
        kind: str = "e4e",
        path: str | None = None,
        steps: int | None = None,
        bootstrap: str | None = None,
        bootstrap_network: str | None = None,
        mix: str | None = None,
        share: float = 0.5,
        stage: int | None = None,
        force: bool = False,
    ) -> None:
        self.encoding = Encoding.of(
            generator,
            path or kind,
            steps=steps,
            bootstrap=bootstrap,
            bootstrap_network=bootstrap_network,
            mix=mix,
            share=share,
            stage=stage,
            force=force,
        )

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self.encoding(target)[-1]


def psp(generator: Generator) -> EncoderStart:
    return EncoderStart(generator, kind="psp")


def e4e(generator: Generator, *, stage: int | None = None) -> EncoderStart:
    return EncoderStart(generator, kind="e4e", stage=stage)


def restyle_psp(generator: Generator, *, steps: int | None = None) -> EncoderStart:
    return EncoderStart(generator, kind="restyle-psp", steps=steps)


def restyle_e4e(generator: Generator, *, steps: int | None = None, stage: int | None = None) -> EncoderStart:
    return EncoderStart(generator, kind="restyle-e4e", steps=steps, stage=stage)
