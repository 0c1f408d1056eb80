"""A warm start of a generator: regression on the portraits that belong to its latents.

Every z has its portrait (`portrait_latents`), the same one for ever, and the portraits of random z are distributed as
the domain. The mapping is fitted first, so that the generator begins near them (`mapping_fit`); then the whole
generator regresses on kept portraits. The loss is the l1 of pixels, the perceptual distance (Zhang et al. 2018,
equation 1) and the squared difference of what the perceptual net reads in both, so that eyes and brows weigh as much as
hair.

It is no adversarial training, and draws without noise: what it leaves is a start for one.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.data.portraits import ATTRIBUTES
from latentopt.perceptual.network import PerceptualNet, UnitFeatures
from latentopt.training.building import TrainedGenerator, follow_magnitudes, settle_magnitudes
from latentopt.training.loop import Trainer, average_
from latentopt.training.mapping_fit import fit_mapping, known_w, random_w, read_w
from latentopt.training.mixing import first_styles
from latentopt.training.portrait_latents import portrait_latents
from latentopt.training.precision import precision_of
from latentopt.training.streams import LabelledStream, step_seed
from latentopt.types import GeneratorInputs

AVERAGED = 4096  # w in the mean that truncation pulls to


@dataclass(frozen=True)
class Regression:
    """Settings of a warm start. `images` is the number of pictures that are learnt in all.

    `lr` is the rate of the synthesis network; the mapping's, whose layers learn slowly, is `mapping_rate` times it.
    `mixing` is the share of pictures with two styles. The mapping is fitted first, in `mapping_steps`, after `fitted`
    samples of the start; 0 steps keep the start's. `known` says that the start comes from an earlier warm start with
    this `latents_seed`: the mapping is then fitted to what it has learnt, not to readings of pictures. `fresh` says
    that the start has random weights, whose pictures cannot be read.
    """

    images: int = 200_000
    batch: int = 16
    lr: float = 3e-3
    mapping_rate: float = 1.0
    mixing: float = 0.5
    perceptual_weight: float = 1.0
    reading_weight: float = 0.05
    fitted: int = 4096
    mapping_steps: int = 7000
    known: bool = False
    fresh: bool = False
    latents_seed: int = 0
    ema_images: float = 5_000
    ema_rampup: float = 0.2
    precision: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class RegressionStep:
    """One record a step; losses are batch means."""

    step: int
    images: int
    l1: float
    distance: float
    reading: float
    seconds: float


class RegressionTrainer(Trainer[RegressionStep]):
    """A generator that learns the portraits of its latents, its moving average and its optimiser. More images may be
    asked for later.

    Args:
        generator: what is started from; it stays as it is.
        net: reads the attributes of portraits.
        stream: portraits, labelled with the variables behind their attributes.
    """

    settings: Regression
    free = frozenset({"images", "precision"})
    parts = ("generator", "ema", "optimizer")

    def __init__(
        self, generator: TrainedGenerator, net: PerceptualNet, stream: LabelledStream, settings: Regression
    ) -> None:
        self.settings, self.stream = settings, stream
        self.device, self.base = generator.device, generator.fingerprint
        self.latents = portrait_latents(generator, settings.latents_seed)
        self.precision = precision_of(settings.precision, self.device)
        self.generator: TrainedGenerator = (
            generator.config.build()
        )  # copy.deepcopy would keep the fingerprint, computed once
        self.generator.load_state_dict(generator.state_dict())
        self.generator.to(self.device).set_precision(self.precision).set_memory_format(torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        follow_magnitudes(self.generator, settings.batch)
        self.read_by = net.to(self.device)
        self.net = copy.deepcopy(net).to(self.precision).to(memory_format=torch.channels_last)
        rates = ((self.generator.synthesis, 1.0), (self.generator.mapping, settings.mapping_rate))
        groups = [{"params": list(part.parameters()), "lr": settings.lr * rate} for part, rate in rates]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-8)

    @property
    def steps(self) -> int:
        return math.ceil(self.settings.images / self.settings.batch)

    @property
    def images_seen(self) -> int:
        return self.step * self.settings.batch

    @property
    def made_from(self) -> dict[str, object]:
        return {"base": self.base}

    def update(self) -> RegressionStep:
        """Move the pictures of portraits' latents towards those portraits."""
        started, s = time.perf_counter(), self.settings
        if self.step == 0 and s.mapping_steps:
            self._begin()
        target, normals = self.stream.labelled_batch(self.step, s.batch)
        torch.manual_seed(step_seed(s.seed, self.step))
        l1, distance, reading = self._losses(self._drawn(normals.to(self.device)), target.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        (l1 + s.perceptual_weight * distance + s.reading_weight * reading).backward()
        self.optimizer.step()
        self.step += 1
        half_life = min(s.ema_images, self.images_seen * s.ema_rampup)
        average_(self.ema, self.generator, 0.5 ** (s.batch / half_life))
        figures = {"l1": l1.item(), "distance": distance.item(), "reading": reading.item()}
        return RegressionStep(self.step, self.images_seen, **figures, seconds=time.perf_counter() - started)

    def _begin(self) -> None:
        """Fit the mapping, that of the average too."""
        torch.manual_seed(self.settings.seed)
        generator, net, s = self.generator, self.read_by, self.settings
        if s.fresh:
            goal = random_w(generator.z_dim, generator.w_dim, self.device)
        elif s.known:
            goal = known_w(generator, net, self.latents, s.fitted)
        else:
            goal = read_w(generator, net, s.fitted)
        fit_mapping(generator.mapping, goal, net, self.latents, s.mapping_steps)
        if s.fresh:
            settle_magnitudes(generator)
        self.ema.mapping.load_state_dict(self.generator.mapping.state_dict())

    def _drawn(self, normals: Tensor) -> Tensor:
        """The pictures [B,3,H,W], without noise, of the portraits that normals [B,A] decide."""
        generator = self.generator
        first = first_styles(len(normals), generator.num_ws, self.settings.mixing, self.device)
        w, other = (generator.mapping(z) for z in self.latents.of(normals, first))
        ws = torch.where(first[:, :, None], w[:, None], other[:, None])  # [B,L,C]
        return generator.synthesis(GeneratorInputs(ws), "none")

    @torch.no_grad()
    def averaged(self) -> TrainedGenerator:
        """The moving average of the weights; its w_avg is the mean of its own mapping."""
        average = copy.deepcopy(self.ema)
        z = torch.randn(AVERAGED, average.z_dim, generator=torch.Generator().manual_seed(self.settings.seed))
        average.w_avg.copy_(average.mapping(z.to(self.device)).mean(dim=0))
        return average

    def _features(self, image: Tensor) -> list[Tensor]:
        return self.net.features(image.to(self.precision, memory_format=torch.channels_last))

    def _read(self, features: list[Tensor]) -> Tensor:
        """Standardised attributes and logits [B,A]."""
        return self.net.raw(features).float()[:, : len(ATTRIBUTES)]

    def _losses(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The l1 of pixels, the perceptual distance and the squared difference of readings of images [B,3,H,W]."""
        features = self._features(image)
        with torch.no_grad():
            wanted = self._features(target)
        weighed = zip(self.net.stage_weights, features, wanted, strict=True)
        distance = sum(weight * UnitFeatures.of(b).distance(a).mean() for weight, a, b in weighed)
        return F.l1_loss(image, target), distance, F.mse_loss(self._read(features), self._read(wanted))
