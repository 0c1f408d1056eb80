"""A warm start of a generator: each picture of the one it starts from is moved to a clean portrait near it, and learnt.

The teacher is the frozen start. The attributes of its pictures are read, carried to the distribution of real portraits
(`transport`) and drawn again by the renderer of the domain; for the same latents, the generator regresses on those. The
loss is the l1 of pixels, the perceptual distance (Zhang et al. 2018, equation 1) and the squared difference of what the
perceptual net reads in both, so that eyes and brows weigh as much as hair. The teacher stays frozen: where the
learner's own pictures were read instead, the training diverged.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.data.portraits import ATTRIBUTES, render
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.perceptual.network import PerceptualNet, perceptual_distance
from latentopt.training.loop import Trainer, average_
from latentopt.training.mixing import first_styles
from latentopt.training.streams import step_seed
from latentopt.training.transport import Transport
from latentopt.types import GeneratorInputs


@dataclass(frozen=True)
class Regression:
    """Settings of a warm start. `images` is the number of pictures that are learnt in all.

    `lr` is the rate of the synthesis network; that of the mapping, whose layers learn slowly, is `mapping_rate` times
    it. `mixing` is the share of pictures with two styles; `fitted` pictures of the teacher fit the transport.
    """

    images: int = 30_000
    batch: int = 32
    lr: float = 2e-3
    mapping_rate: float = 10.0
    mixing: float = 0.5
    perceptual_weight: float = 1.0
    reading_weight: float = 0.05
    fitted: int = 4096
    ema_images: float = 5_000
    ema_rampup: float = 0.2
    precision: str = "bfloat16"
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


class Latents(NamedTuple):
    """Two z for each picture [2,B,Z], and the layers [B,L] that take the first."""

    z: Tensor
    first: Tensor


class RegressionTrainer(Trainer[RegressionStep]):
    """A generator that learns portraits for its latents, its moving average and its optimiser. More images may be asked
    for later.

    Args:
        generator: what is started from; it stays as it is.
        net: reads the attributes of portraits.
        real: [N,3,H,W] in [-1,1], portraits whose readings are the goal.
    """

    settings: Regression
    free = frozenset({"images"})
    parts = ("generator", "ema", "optimizer")

    def __init__(self, generator: StyleGAN2, net: PerceptualNet, real: Tensor, settings: Regression) -> None:
        self.settings, self.device, self.base = settings, generator.device, generator.fingerprint
        self.precision = getattr(torch, settings.precision)
        self.teacher, self.generator = self._copy(generator).requires_grad_(False), self._copy(generator)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        self.mean, self.std, self.binary = net.mean, net.std, net.binary  # in full precision
        self.net = copy.deepcopy(net).to(self.precision).to(memory_format=torch.channels_last)
        rates = ((self.generator.synthesis, 1.0), (self.generator.mapping, settings.mapping_rate))
        groups = [{"params": list(part.parameters()), "lr": settings.lr * rate} for part, rate in rates]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-8)
        self.transport = self._fitted(real)

    @torch.no_grad()
    def _fitted(self, real: Tensor) -> Transport:
        """The transport from readings of the teacher's pictures to readings of `real` ones."""
        torch.manual_seed(self.settings.seed)
        batches = math.ceil(self.settings.fitted / self.settings.batch)
        start = [self._read(self._features(self._drawn(self.teacher, self._latents()))) for _ in range(batches)]
        goal = [self._read(self._features(part)) for part in real.split(self.settings.batch)]
        return Transport(torch.cat(start), torch.cat(goal))

    def _copy(self, generator: StyleGAN2) -> StyleGAN2:
        copied = StyleGAN2(generator.config)  # copy.deepcopy would keep the fingerprint, which is computed once
        copied.load_state_dict(generator.state_dict())
        return copied.to(self.device).set_precision(self.precision).set_memory_format(torch.channels_last)

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
        """Move the generator's pictures towards portraits near those of the teacher, for the same latents."""
        started, s = time.perf_counter(), self.settings
        torch.manual_seed(step_seed(s.seed, self.step))
        latents = self._latents()
        with torch.no_grad():
            target = self.redrawn(self._read(self._features(self._drawn(self.teacher, latents))))
        l1, distance, reading = self._losses(self._drawn(self.generator, latents), target)
        self.optimizer.zero_grad(set_to_none=True)
        (l1 + s.perceptual_weight * distance + s.reading_weight * reading).backward()
        self.optimizer.step()
        self.step += 1
        half_life = min(s.ema_images, self.images_seen * s.ema_rampup)
        average_(self.ema, self.generator, 0.5 ** (s.batch / half_life))
        figures = {"l1": l1.item(), "distance": distance.item(), "reading": reading.item()}
        return RegressionStep(self.step, self.images_seen, **figures, seconds=time.perf_counter() - started)

    def redrawn(self, readings: Tensor) -> Tensor:
        """The portraits [B,3,H,W] in [-1,1] that readings [B,A], standardised attributes or logits, are carried to."""
        carried = self.transport(readings)
        values = torch.where(self.binary, (carried > 0).float(), carried * self.std + self.mean)
        low, high = (torch.tensor([getattr(a, end) for a in ATTRIBUTES]).to(values) for end in ("low", "high"))
        return render(values.clamp(low, high), self.generator.resolution)

    @torch.no_grad()
    def averaged(self) -> StyleGAN2:
        """The moving average of the weights; its w_avg is the mean of its own mapping."""
        average = copy.deepcopy(self.ema)
        z = torch.randn(
            self.settings.fitted, average.z_dim, generator=torch.Generator().manual_seed(self.settings.seed)
        )
        average.w_avg.copy_(average.mapping(z.to(self.device)).mean(dim=0))
        return average

    def _latents(self) -> Latents:
        s, generator = self.settings, self.generator
        first = first_styles(s.batch, generator.num_ws, s.mixing, self.device)
        return Latents(torch.randn(2, s.batch, generator.z_dim, device=self.device), first)

    @staticmethod
    def _drawn(generator: StyleGAN2, latents: Latents) -> Tensor:
        """The pictures [B,3,H,W] of latents, without noise."""
        w, other = (generator.mapping(z) for z in latents.z)
        ws = torch.where(latents.first[:, :, None], w[:, None], other[:, None])  # [B,L,C]
        return generator.synthesis(GeneratorInputs(ws), "none")

    def _features(self, image: Tensor) -> list[Tensor]:
        return self.net.features(image.to(self.device, self.precision, memory_format=torch.channels_last))

    def _read(self, features: list[Tensor]) -> Tensor:
        """Standardised attributes and logits [B,A]."""
        return self.net.raw(features).float()[:, : len(ATTRIBUTES)]

    def _losses(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The l1 of pixels, the perceptual distance and the squared difference of readings of images [B,3,H,W]."""
        features = self._features(image)
        with torch.no_grad():
            wanted = self._features(target)
        distance = perceptual_distance(self.net, features, wanted).mean()
        return F.l1_loss(image, target), distance, F.mse_loss(self._read(features), self._read(wanted))
