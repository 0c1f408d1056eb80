"""The quickest guess at a picture's latents that a generator offers, and how far off it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from latentopt.encoders.inference import Encoding
from latentopt.errors import MissingWeightsError, StatisticsError
from latentopt.initializers.encoder import EncoderStart
from latentopt.initializers.linear import Linear
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import first_at_hand
from latentopt.statistics.pnorm import PNORM, PNorm
from latentopt.statistics.sampling import drawn_at_once, sample_w
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import Advance, phase

ENCODERS = ("e4e", "psp")
POOL_SEED = 7
SIDE = 32  # pixels at which pictures are compared where no network is at hand
PIXELS = 1 << 22  # drawn in all, for the pool as for the calibration: a moment at 64 pixels, a minute at 1024 on a CPU
FEWEST, MOST = 32, 256


class WarmStart(Protocol):
    """A guess at latents."""

    @property
    def name(self) -> str:
        """What makes it, with the hash of what it is made of."""

    @property
    def draws(self) -> int:
        """Pictures that are drawn to guess at one."""

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """image [B,3,H,W] in [-1,1] -> distance [B] of what it draws; radius [B] in P-norm+, None if there is none."""


def find_warm_start(generator: Generator) -> WarmStart:
    """The linear prior; without one a bundled encoder for this generator; without either the nearest of samples."""
    try:
        return LinearGuess(generator, Linear(generator))
    except (StatisticsError, MissingWeightsError):
        pass
    found = first_at_hand(PNORM, generator)
    for kind in ENCODERS:
        try:
            return EncoderGuess(generator, EncoderStart(generator, kind=kind).encoding, found[0] if found else None)
        except MissingWeightsError:
            continue
    return NearestSample(generator)


def sample_count(generator: Generator) -> int:
    """How many samples are drawn: 256 up to 128 pixels, 64 at 256, 32 from 512 on."""
    height, width = generator.resolution
    return max(FEWEST, min(MOST, PIXELS // (height * width)))


class LinearGuess:
    """The linear prior, in the perceptual distance that it was fitted with.

    The radius is that of the regression itself, before it is pulled into the ball of the samples: features that no
    sample has lead it far out.
    """

    draws = 1

    def __init__(self, generator: Generator, linear: Linear) -> None:
        self.generator, self.linear = generator, linear
        self.name = f"linear prior on {linear.prior.network}, n {linear.prior.card.get('n')}"

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        prior, features = self.linear.prior, self.linear.features
        x = features(image)  # [B,D]
        drawn = self.generator.synthesis(prior.predict(x)).float().clamp(-1, 1)
        radius = prior.regress(x).square().mean(dim=(1, 2)).sqrt()
        return features.perceptual.distance(drawn, image).cpu(), radius


@dataclass(frozen=True)
class EncoderGuess:
    """An encoder's codes, compared at few pixels."""

    generator: Generator
    encoding: Encoding
    pnorm: PNorm | None
    draws: ClassVar[int] = 1

    @property
    def name(self) -> str:
        return f"encoder {self.encoding.encoder.config.kind} {self.encoding.encoder.fingerprint}"

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        inputs = self.encoding(image)[-1]
        distance = _root_mean_square(_small(self.generator.synthesis(inputs).float().clamp(-1, 1)) - _small(image))
        if self.pnorm is None:
            return distance.cpu(), None
        return distance.cpu(), _root_mean_square(self.pnorm.whiten(inputs.ws.double().cpu())).float()


class NearestSample:
    """The nearest of a pool of n samples, compared at few pixels: for generators with nothing fitted or trained.

    pool: [n,3,h,w], what an earlier one had drawn.
    """

    name = "nearest of samples"
    draws = 0

    def __init__(self, generator: Generator, n: int | None = None, pool: Tensor | None = None) -> None:
        self.generator = generator
        self.n = n or sample_count(generator)
        if pool is not None:
            self.pool = pool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a picture as it is compared, [c,h,w]."""
        picture = torch.empty(1, self.generator.img_channels, *self.generator.resolution)
        return tuple(_small(picture).shape[1:])

    @cached_property
    def pool(self) -> Tensor:
        """[n,3,h,w]; drawn when it is first needed."""
        with phase("preflight: samples to compare with", self.n, "samples") as advance:
            return torch.cat([_small(part) for part in draw(self.generator, POOL_SEED, self.n, advance)])

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        small = _small(image).flatten(1)
        nearest = torch.cdist(small, self.pool.flatten(1)).amin(dim=1)  # [B]
        return (nearest / small.shape[1] ** 0.5).cpu(), None


@torch.no_grad()
def draw(generator: Generator, seed: int, n: int, on_progress: Advance = lambda count: None) -> Iterator[Tensor]:
    """`n` samples in batches [b,3,H,W], in [-1,1]. on_progress: called with the number of pictures after each."""
    for part in sample_w(generator, seed, n).split(drawn_at_once(generator, 16)):
        yield generator.synthesis(GeneratorInputs(generator.broadcast(part))).float().clamp(-1, 1)
        on_progress(len(part))


def _small(image: Tensor) -> Tensor:
    """The shorter side at `SIDE` pixels, if it is longer."""
    height, width = image.shape[2:]
    return shrink(image, round(height * min(1.0, SIDE / min(height, width))))


def _root_mean_square(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(dim=1).sqrt()
