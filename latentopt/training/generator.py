"""Adversarial training of a StyleGAN2 or StyleGAN3 generator, resumable at any snapshot.

Source: Karras et al. 2020 (losses, lazy regularisation, moving average of the weights; also StyleGAN3's discriminator);
WRanGAN, Algorithm 2 (randomised weights). Difference from both: the discriminator's and the generator's update of one
step look at the same generated images (so at the same epsilon), which saves one synthesis pass a step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import CheckpointError
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.network import GeneratorNetwork
from latentopt.training.building import (
    TrainedConfig,
    TrainedGenerator,
    follow_magnitudes,
    generator_config,
    hold_noise,
)
from latentopt.training.generator_settings import GeneratorTraining, TrainingStep
from latentopt.training.loop import Trainer, average_
from latentopt.training.losses import (
    ADVERSARIAL,
    hinge_discriminator_loss,
    hinge_generator_loss,
    path_lengths,
    r1_penalty,
)
from latentopt.training.mixing import first_styles
from latentopt.training.precision import precision_of
from latentopt.training.projected import ProjectedDiscriminator
from latentopt.training.randomized import RandomizedWeights, last_convolutions
from latentopt.training.streams import ImageStream, step_seed
from latentopt.types import GeneratorInputs

Architecture = tuple[TrainedConfig, DiscriminatorConfig]
PARTS = ("generator", "discriminator", "ema", "g_optimizer", "d_optimizer")
STANDARDISED_ON = 256  # images


class GeneratorTrainer(Trainer[TrainingStep]):
    """Generator, its moving average, discriminator and both optimisers. More images may be asked for later.

    `architecture` is that of the networks to start from, in place of the one that `settings` describe. `base` is the
    fingerprint of the generator that the weights came from, None where they were random.
    """

    settings: GeneratorTraining
    free = frozenset({"images", "precision"})

    def __init__(
        self,
        settings: GeneratorTraining,
        stream: ImageStream,
        device: torch.device | str = "cpu",
        architecture: Architecture | None = None,
    ) -> None:
        self.settings, self.stream, self.device = settings, stream, torch.device(device)
        self.architecture: Architecture | None = architecture
        self.base: str | None = None
        torch.manual_seed(settings.seed)
        s = settings
        config, discriminator_config = architecture or (
            generator_config(s),
            DiscriminatorConfig(s.channels),
        )
        self.generator: TrainedGenerator = config.build().to(self.device)
        self.discriminator = Discriminator(discriminator_config).to(self.device)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        names = last_convolutions(self.generator, s.randomized) if s.randomized else ()
        follow_magnitudes(self.generator, s.batch)
        self.sigma = RandomizedWeights(self.generator, names, s.sigma_init, s.keep_level)
        self.sigma_ema = copy.deepcopy(self.sigma).requires_grad_(False)
        precision = precision_of(s.precision, self.device)
        if precision != torch.float32:
            self.generator.set_precision(precision)
            self.discriminator.low_precision = precision
        self.generator.set_memory_format(torch.channels_last)
        self.discriminator.to(memory_format=torch.channels_last)
        generator_and_sigma = torch.nn.ModuleList([self.generator, self.sigma])
        g_interval = s.path_interval if s.path_weight else None
        self.g_optimizer = self._adam(generator_and_sigma, g_interval, s.lr * s.generator_rate)
        self.d_optimizer = self._adam(self.discriminator, s.r1_interval, s.lr)
        self.path_mean = torch.zeros([], device=self.device)
        self.adversarial = ADVERSARIAL[s.loss]
        self.projected: ProjectedDiscriminator | None = None
        if s.features != "none":
            sample = stream.batch(0, STANDARDISED_ON).to(self.device)
            self.projected = ProjectedDiscriminator(s.features, sample, precision)
            self.heads = self.projected.heads
            self.h_optimizer = torch.optim.Adam(self.heads.parameters(), lr=s.feature_lr, betas=(0.0, 0.99))

    @staticmethod
    def _adam(network: torch.nn.Module, lazy_interval: int | None, lr: float) -> torch.optim.Adam:
        """Adam whose rate and betas are corrected for lazy regularisation (appendix B)."""
        ratio = 1.0 if lazy_interval is None else lazy_interval / (lazy_interval + 1)
        betas = (0.0, 0.99**ratio)
        return torch.optim.Adam(network.parameters(), lr=lr * ratio, betas=betas, eps=1e-8)

    @property
    def images_seen(self) -> int:
        return self.step * self.settings.batch

    @property
    def _noise_mode(self) -> str:
        return "none" if self.images_seen < self.settings.noise_from else "random"

    @property
    def parts(self) -> tuple[str, ...]:
        sigma = ("sigma", "sigma_ema") if self.settings.randomized else ()
        return PARTS + sigma + (() if self.projected is None else ("heads", "h_optimizer"))

    @property
    def steps(self) -> int:
        return math.ceil(self.settings.images / self.settings.batch)

    @property
    def made_from(self) -> dict[str, object]:
        """Randomised weights are drawn around those of one generator."""
        return {"base": self.base} if self.settings.randomized else {}

    def update(self) -> TrainingStep:
        """Update the discriminator, the generator and the averages."""
        started = time.perf_counter()
        torch.manual_seed(step_seed(self.settings.seed, self.step))
        real = self.stream.batch(self.step, self.settings.batch).to(self.device)
        real = real.contiguous(memory_format=torch.channels_last)
        learns = self.images_seen >= self.settings.discriminator_first
        with torch.set_grad_enabled(learns):
            fake = self.generator.synthesis(self._inputs(self._ws(self.settings.batch)), self._noise_mode)
        d_loss, r1 = self._update_discriminator(real, fake.detach())
        seen = [] if self.projected is None else self.projected.features(fake)
        h_loss = self._update_heads(real, seen)
        g_loss = path = torch.tensor(math.nan)
        if learns:
            g_loss, path = self._update_generator(real, fake, seen)
            self._update_ema()
        self.step += 1
        losses = {"d_loss": d_loss, "g_loss": g_loss, "r1": r1, "path": path, "h_loss": h_loss}
        figures = {name: float(loss) for name, loss in losses.items()}
        return TrainingStep(self.step, self.images_seen, **figures, seconds=time.perf_counter() - started)

    def _inputs(self, ws: Tensor) -> GeneratorInputs:
        """Style vectors and, where weights are randomised, a fresh `sigma * epsilon` for all images."""
        return GeneratorInputs(ws, deltas=self.sigma.draw() or None)

    def _ws(self, batch: int) -> Tensor:
        """Random style vectors [B,L,C], two a picture with probability `mixing`, crossing at a random layer."""
        generator, s = self.generator, self.settings
        w, other = (generator.mapping(torch.randn(batch, generator.z_dim, device=self.device)) for _ in range(2))
        with torch.no_grad():
            generator.w_avg.lerp_(w.detach().mean(dim=0), 1 - s.w_avg_beta)
        first = first_styles(batch, generator.num_ws, s.mixing, self.device)
        return torch.where(first[:, :, None], w[:, None], other[:, None])

    def _update_discriminator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        s, r1 = self.settings, torch.tensor(math.nan)
        self.discriminator.requires_grad_(True)
        self.d_optimizer.zero_grad(set_to_none=True)
        if self.step % s.r1_interval == 0:
            logits, r1 = r1_penalty(self.discriminator, real)
            penalty = r1
            if self.adversarial.penalises_fake:
                fake_logits, r2 = r1_penalty(self.discriminator, fake)
                penalty = r1 + r2
            else:
                fake_logits = self.discriminator(fake)
            loss = self.adversarial.discriminator(logits, fake_logits)
            (loss + penalty * (s.r1_gamma / 2 * s.r1_interval)).backward()
        else:
            loss = self.adversarial.discriminator(self.discriminator(real), self.discriminator(fake))
            loss.backward()
        self.d_optimizer.step()
        return loss.detach(), r1.detach()

    def _update_heads(self, real: Tensor, seen: list[Tensor]) -> Tensor:
        """One step of the heads on the features of real images [B,3,H,W] and on those `seen` in generated ones."""
        if self.projected is None:
            return torch.tensor(math.nan)
        self.heads.requires_grad_(True)
        self.h_optimizer.zero_grad(set_to_none=True)
        fake_logits = self.projected([x.detach() for x in seen])
        loss = hinge_discriminator_loss(self.projected(self.projected.features(real)), fake_logits)
        loss.backward()
        self.h_optimizer.step()
        return loss.detach()

    def _update_generator(self, real: Tensor, fake: Tensor, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        s, length = self.settings, torch.tensor(math.nan)
        self.discriminator.requires_grad_(False)
        self.g_optimizer.zero_grad(set_to_none=True)
        loss = self.adversarial.generator(lambda: self.discriminator(real), self.discriminator(fake))
        if self.projected is not None:
            self.heads.requires_grad_(False)
            loss = loss + s.feature_weight * hinge_generator_loss(self.projected(seen))
        loss.backward()
        if s.path_weight and self.step % s.path_interval == 0:
            ws = self._ws(max(s.batch // 2, 1))
            lengths = path_lengths(self.generator.synthesis(self._inputs(ws), self._noise_mode), ws)
            self.path_mean.lerp_(lengths.detach().mean(), 0.01)
            ((lengths - self.path_mean).square().mean() * (s.path_weight * s.path_interval)).backward()
            length = lengths.mean()
        self.g_optimizer.step()
        hold_noise(self.generator, s.noise_strength)
        return loss.detach(), length.detach()

    def _update_ema(self) -> None:
        s = self.settings
        half_life = min(s.ema_images, max((self.images_seen - s.discriminator_first) * s.ema_rampup, 1.0))
        decay = 0.5 ** (s.batch / half_life)
        average_(self.ema, self.generator, decay)
        average_(self.sigma_ema, self.sigma, decay)

    def start_from(self, generator: GeneratorNetwork | None, discriminator: Discriminator) -> None:
        """Begin with trained weights (mu) instead of random ones; sigma and the optimisers' moments start anew.

        Where the generator is None, its weights stay random.

        Raises CheckpointError where they do not fit this trainer's networks.
        """
        pairs = ((self.generator, generator), (self.ema, generator), (self.discriminator, discriminator))
        for network, trained in pairs:
            if trained is None:
                continue
            try:
                network.load_state_dict(trained.state_dict())
            except RuntimeError as error:
                raise CheckpointError(f"the weights to start from are of another size or make: {error}") from error
        for network in (self.generator, self.ema):
            hold_noise(network, self.settings.noise_strength)
        self.base = None if generator is None else generator.fingerprint

    def state(self) -> dict[str, Any]:
        return super().state() | {"path_mean": self.path_mean}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.path_mean.copy_(state["path_mean"])
