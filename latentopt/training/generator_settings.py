"""Settings of the adversarial training of a generator, and the record of one of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentopt.errors import UsageError
from latentopt.training import FEATURES, GENERATOR_FAMILIES, LOSSES


@dataclass(frozen=True)
class GeneratorTraining:
    """Settings of one training. `images` is the number of real images shown in all; gains and rates as in the paper.

    `lr` is the discriminator's rate; the generator's is `generator_rate` times it.
    Noise inputs join after `noise_from` images: from the start, a small generator paints eyes and mouths with noise.
    They are never weaker than `noise_strength`: a generator that learns pictures without grain gives noise up.
    The discriminator learns alone, from pictures of the start, for `discriminator_first` images.
    The last `randomized` convolutions have weights mu + sigma * epsilon, sigma being `sigma_init` at the start and,
    with `keep_level`, on the whole also later; 0 is the plain generator.
    `loss` is that of the discriminator of images: logistic with R1 (StyleGAN2), or relativistic with R1 and R2 (R3GAN).
    `features` other than none add a discriminator on frozen features (Projected GANs), which learns at `feature_lr`;
    its part of the generator's loss is multiplied by `feature_weight`.

    `family` is that of the generator. A StyleGAN3 has `layers` before that to colours, fewer channels as their cutoff
    grows, and no noise.

    Raises UsageError for a loss, features or a family of another name.
    """

    resolution: int = 64
    channel_base: int = 2048
    channel_max: int = 96
    w_dim: int = 128
    mapping_layers: int = 4
    images: int = 200_000
    batch: int = 16
    lr: float = 2.5e-3
    generator_rate: float = 1.0
    r1_gamma: float = 0.4
    r1_interval: int = 16
    path_weight: float = 0.0
    path_interval: int = 4
    mixing: float = 0.9
    noise_from: int = 400_000
    noise_strength: float = 0.0
    discriminator_first: int = 0
    ema_images: float = 5_000
    ema_rampup: float = 0.05
    w_avg_beta: float = 0.998
    precision: str = "auto"
    seed: int = 0
    randomized: int = 0
    sigma_init: float = 1.0
    keep_level: bool = False
    loss: str = "logistic"
    features: str = "none"
    feature_weight: float = 1.0
    feature_lr: float = 2e-4
    family: str = "stylegan2"
    layers: int = 10

    def __post_init__(self) -> None:
        for key, known in (("loss", LOSSES), ("features", FEATURES), ("family", GENERATOR_FAMILIES)):
            if getattr(self, key) not in known:
                raise UsageError(f"{key} {getattr(self, key)!r} is not one of {', '.join(known)}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Widths from 4x4 to the resolution: `min(channel_base / r, channel_max)`."""
        blocks = int(math.log2(self.resolution)) - 1
        return tuple(min(self.channel_base // (4 << i), self.channel_max) for i in range(blocks))


@dataclass(frozen=True)
class TrainingStep:
    """One record a step: losses are batch means; `g_loss`, `r1`, `path` and `h_loss` (heads on features) are NaN where
    there is none.
    """

    step: int
    images: int
    d_loss: float
    g_loss: float
    r1: float
    path: float
    seconds: float
    h_loss: float = math.nan
