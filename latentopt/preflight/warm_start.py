"""The quickest guess at a picture's latents that a generator offers, and how far off it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

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
    """The nearest of a pool of samples, compared at few pixels: for generators with nothing fitted or trained."""

    def __init__(self, generator: Generator) -> None:
        n = sample_count(generator)
        self.pool = torch.cat([_small(part) for part in draw(generator, sample_w(generator, POOL_SEED, n))])
        self.name = f"nearest of {n} samples"

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        small = _small(image).flatten(1)
        nearest = torch.cdist(small, self.pool.flatten(1)).amin(dim=1)  # [B]
        return (nearest / small.shape[1] ** 0.5).cpu(), None


@torch.no_grad()
def draw(generator: Generator, w: Tensor, batch: int = 16) -> list[Tensor]:
    """Pictures of w [n,C] in batches [b,3,H,W], in [-1,1]."""
    inputs = (GeneratorInputs(generator.broadcast(part)) for part in w.split(batch))
    return [generator.synthesis(x).float().clamp(-1, 1) for x in inputs]


def _small(image: Tensor) -> Tensor:
    """The shorter side at `SIDE` pixels, if it is longer."""
    height, width = image.shape[2:]
    return shrink(image, round(height * min(1.0, SIDE / min(height, width))))


def _root_mean_square(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(dim=1).sqrt()
