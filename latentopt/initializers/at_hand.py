"""The best start that is there for a generator, for recipes that are to work with any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.encoders.files import encoder_path
from latentopt.errors import MissingWeightsError
from latentopt.initializers.encoder import EncoderStart
from latentopt.initializers.linear import Linear
from latentopt.initializers.simple import Mean
from latentopt.protocols import Generator, Initializer
from latentopt.statistics.at_hand import first_at_hand
from latentopt.statistics.linear_prior import PRIOR
from latentopt.types import GeneratorInputs


class AtHand(Initializer):
    """The codes of the generator's e4e encoder; without one those of its linear prior, without that the mean of w.

    encoder  an encoder's file, instead of the bundled one
    """

    reads = {"encoder": "start at hand"}

    def __init__(self, generator: Generator, *, encoder: str | None = None) -> None:
        self.start: Initializer
        if (path := _encoder(generator, encoder)) is not None:
            self.start = EncoderStart(generator, path=str(path))
        elif first_at_hand(PRIOR, generator) is not None:
            self.start = Linear(generator)
        else:
            self.start = Mean(generator)

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self.start(target, seeds)


def _encoder(generator: Generator, named: str | None) -> Path | None:
    if named is not None:
        return encoder_path(named, generator)
    try:
        return encoder_path("e4e", generator)
    except MissingWeightsError:
        return None


def start_at_hand(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The file that `AtHand` starts from (a finder of `latentopt.registry.FILES`); none for the mean."""
    if (path := _encoder(generator, named)) is not None:
        return [path]
    return PRIOR(generator, None, part)
