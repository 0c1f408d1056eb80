"""Training of pSp, e4e and ReStyle encoders for a frozen generator of any family, in one process or several.

Source: Richardson et al. 2021 (pSp), Tov et al. 2021 (e4e, appendix A), Alaluf et al. 2021 (ReStyle, section 3).
Differences: the latent discriminator is updated after the encoder, with the codes of the same pass; ReStyle's is shown
the full codes of all steps. Gradients of ReStyle's steps are summed and make one update a batch, as in the authors'
code (the paper's text has one a step).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.encoder import Encoder, EncoderNet
from latentopt.encoders.heads import resized
from latentopt.pictures.channels import in_colour
from latentopt.protocols import Generator
from latentopt.training.encoder_losses import Distortion, FeatureNet, Target, delta_regularization
from latentopt.training.encoder_settings import EncoderTraining, make_optimizer
from latentopt.training.latent_discriminator import CodePool, LatentDiscriminator, latent_r1_penalty, random_rows
from latentopt.training.loop import Trainer, average_
from latentopt.training.losses import discriminator_loss, generator_loss
from latentopt.training.parallel import Processes
from latentopt.training.precision import autocast, precision_of
from latentopt.training.starts import begin_with
from latentopt.training.streams import ImageStream, step_seed
from latentopt.types import GeneratorInputs

PARTS = ("net", "ema", "optimizer", "discriminator", "d_optimizer", "real_pool", "fake_pool")
W_AVG_SAMPLES = 10_000
LOW_PRECISION_SIDE = 32  # below it the last maps are 1x1, whose weight gradients oneDNN leaves undefined in bfloat16


EncoderRecord = dict[str, Any]


@torch.no_grad()
def mean_w(generator: Generator, samples: int = W_AVG_SAMPLES) -> Tensor:
    """The mean of w [C] over random samples, always the same ones."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(samples, generator.z_dim, generator=rng).to(generator.device)
    return generator.mapping(z).mean(dim=0)


class EncoderTrainer(Trainer[EncoderRecord]):
    """An encoder's network, its moving average, the latent discriminator and both optimisers.

    `similarity` is the frozen network of the similarity loss; by default the perceptual network's own last features.
    `described` says what the training images are. Of several processes, each is given the whole batch and takes its
    share. Raises UsageError for settings and generators that do not go together.
    """

    settings: EncoderTraining
    parts = PARTS

    def __init__(
        self,
        settings: EncoderTraining,
        config: EncoderConfig,
        generator: Generator,
        stream: ImageStream,
        processes: Processes | None = None,
        similarity: FeatureNet | None = None,
        described: Mapping[str, object] | None = None,
    ) -> None:
        self.settings, self.config, self.generator, self.stream = settings, config, generator, stream
        self.processes, self.device, self.described = processes or Processes(), generator.device, described or {}
        settings.check(generator, self.processes.count)
        self.precision = precision_of(settings.precision, self.device)
        self.synthesis = copy.deepcopy(generator).set_precision(self.precision).set_memory_format(torch.channels_last)
        self.distortion = Distortion(generator, settings.perceptual_net, similarity=similarity)
        torch.manual_seed(settings.seed)
        net = EncoderNet(config).to(self.device).to(memory_format=torch.channels_last).train()
        self.net = self.processes.share_norms(net, self.device)
        self.ema = copy.deepcopy(net).requires_grad_(False).eval()
        average = generator.broadcast(mean_w(generator)[None])[0]  # [L,C]
        self.encoder = Encoder(self.net, average, generator.fingerprint)
        self.start = self.encoder.start_image(generator) if config.iterative else None  # [1,3,h,w]
        self.optimizer = make_optimizer(settings.optimizer, self.net.parameters(), settings.lr)
        self.discriminator = LatentDiscriminator(generator.w_dim).to(self.device)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=settings.latent_rate)
        self.real_pool, self.fake_pool = (CodePool(generator.w_dim).to(self.device) for _ in range(2))

    def start_from(self, encoder: Encoder) -> None:
        """Begin with the weights of a trained encoder instead of random ones.

        Raises CheckpointError where they do not fit.
        """
        begin_with(encoder.net, (self.net, self.ema), encoder.name)

    @property
    def steps(self) -> int:
        return self.settings.steps

    @property
    def made_from(self) -> dict[str, object]:
        architecture = {f"encoder's {key}": value for key, value in asdict(self.config).items()}
        return architecture | {"generator": self.generator.fingerprint} | dict(self.described)

    @property
    def images_seen(self) -> int:
        return self.step * self.settings.batch

    @property
    def stage(self) -> int | None:
        """How many rows besides row 0 have offsets by now; None: all."""
        return self.settings.stage(self.step, self.generator.num_ws)

    def agree(self, asked: bool) -> bool:
        return self.processes.agree(asked, self.device)

    def update(self) -> EncoderRecord:
        """One step. Its record has batch means of the losses, of the last of ReStyle's steps: `step`, `loss`, `l2`,
        `perceptual`, `similarity`, `delta`, `latent`, `d_loss`, `stage`, `seconds`.
        """
        started = time.perf_counter()
        rng = torch.Generator(self.device).manual_seed(step_seed(self.settings.seed, self.step))
        image = self.processes.share(self.stream.batch(self.step, self.settings.batch)).to(self.device)
        image = resized(in_colour(image), self.config.image_size).contiguous(memory_format=torch.channels_last)
        rows = self.generator.num_ws if self.stage is None else self.stage + 1
        codes, losses = self._update_encoder(image, rows, rng)
        if self.settings.latent_weight:
            losses["d_loss"] = self._update_discriminator(codes, rows, rng)
        average_(self.ema, self.net, min(self.settings.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        means = self.processes.mean(torch.stack(list(losses.values()))).tolist()
        record = {"step": self.step, **dict(zip(losses, means, strict=True)), "stage": rows - 1}
        return record | {"seconds": time.perf_counter() - started}

    def _update_encoder(self, image: Tensor, rows: int, rng: torch.Generator) -> tuple[list[Tensor], dict[str, Tensor]]:
        """One update of the encoder. Returns the codes [B,L,C] of each step and the last step's losses."""
        self._anneal()
        self.optimizer.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(False)
        ws, shown = self.encoder.average(self.generator).expand(len(image), -1, -1), self.start
        visited: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        with self._autocast():
            target = self.distortion.target(image)
        for _ in range(self.settings.restyle_steps):
            with self._autocast(min(self.config.image_size) >= LOW_PRECISION_SIDE):
                codes = self.encoder.codes(image, ws, shown, self.stage)
            drawn = self._draw(codes, rng)
            losses = self._losses(drawn, target, codes, rows)
            losses["loss"].backward()
            ws, shown = codes.detach(), drawn.detach() if self.config.iterative else None
            visited.append(ws)
        self.processes.average_gradients(self.net.parameters())
        self.optimizer.step()
        return visited, {name: loss.detach() for name, loss in losses.items()}

    def _losses(self, image: Tensor, target: Target, codes: Tensor, rows: int) -> dict[str, Tensor]:
        """The weighted sum (equations 5 to 7) as `loss`, and the unweighted terms."""
        s = self.settings
        with self._autocast():
            losses = self.distortion(image, target)
        loss = s.l2_weight * losses["l2"] + s.perceptual_weight * losses["perceptual"]
        loss = loss + s.similarity_weight * losses["similarity"]
        if s.delta_weight:
            losses["delta"] = delta_regularization(codes, rows)
            loss = loss + s.delta_weight * losses["delta"]
        if s.latent_weight:
            losses["latent"] = generator_loss(self.discriminator(codes[:, :rows].flatten(0, 1)))
            loss = loss + s.latent_weight * losses["latent"]
        return {"loss": loss} | losses

    def _update_discriminator(self, visited: list[Tensor], rows: int, rng: torch.Generator) -> Tensor:
        """One update of the latent discriminator, the same in every process: codes are few and small."""
        s, generator = self.settings, self.generator
        codes = torch.cat([self.processes.gather(codes) for codes in visited])  # [N B,L,C]
        with torch.no_grad():
            z = torch.randn(len(codes), generator.z_dim, generator=rng, device=self.device)
            real = self.real_pool.exchange(generator.mapping(z), rng)
        fake = self.fake_pool.exchange(random_rows(codes, rows, rng), rng)
        self.discriminator.requires_grad_(True)
        self.d_optimizer.zero_grad(set_to_none=True)
        loss = discriminator_loss(self.discriminator(real), self.discriminator(fake))
        total = loss
        if self.step % s.latent_r1_interval == 0:
            total = loss + latent_r1_penalty(self.discriminator, real) * (s.latent_r1 / 2 * s.latent_r1_interval)
        total.backward()
        self.d_optimizer.step()
        return loss.detach()

    def _draw(self, codes: Tensor, rng: torch.Generator) -> Tensor:
        """The image of codes [B,L,C] with random noise, at the encoder's size: [B,3,h,w]."""
        batch = self.settings.batch
        noise = {
            name: self.processes.share(torch.randn(batch, 1, *size, generator=rng, device=self.device))
            for name, size in self.generator.noise_shapes.items()
        }
        image = self.synthesis.synthesis(GeneratorInputs(codes, noise=noise or None))
        return resized(in_colour(image), self.config.image_size)

    def _autocast(self, wanted: bool = True) -> torch.autocast:
        return autocast(self.device, self.precision, wanted)

    def _anneal(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
