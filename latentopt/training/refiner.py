"""Training of StyleRes and WarpRes refiners for a frozen generator and a frozen encoder.

Source: Yildirim et al., sections 3.2 and 3.3: the path without edit, and the cycle's, which edits at random and back.
Differences: the code that the edited picture is encoded to takes no gradient, the picture itself does; the
discriminator has the lazy R1 penalty of StyleGAN2.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from latentopt.encoders.encoder import Encoder
from latentopt.errors import CheckpointError
from latentopt.pictures.channels import in_colour
from latentopt.protocols import FlowTeacher, Generator
from latentopt.refiners.config import RefinerConfig
from latentopt.refiners.network import RefinerNet, TrainedRefiner
from latentopt.refiners.warping import resized_flow
from latentopt.training.encoder_losses import Distortion, FeatureNet
from latentopt.training.loop import Trainer, average_
from latentopt.training.losses import discriminator_loss, generator_loss, r1_penalty
from latentopt.training.parallel import Processes
from latentopt.training.precision import autocast, precision_of
from latentopt.training.refiner_settings import RefinerTraining
from latentopt.training.starts import begin_with
from latentopt.training.streams import ImageStream, step_seed
from latentopt.types import GeneratorInputs

RefinerRecord = dict[str, Any]


class RefinerTrainer(Trainer[RefinerRecord]):
    """A refiner's network, its moving average, the discriminator, and both optimisers.

    `discriminator` starts from the generator's own; without one the adversarial loss is left out. `teacher` guides the
    flow; without one the flow loss is. `described` says what the training images are. Raises UsageError for settings
    and generators that do not go together, CheckpointError for an encoder that does not fit.
    """

    settings: RefinerTraining

    def __init__(
        self,
        settings: RefinerTraining,
        config: RefinerConfig,
        generator: Generator,
        encoder: Encoder,
        stream: ImageStream,
        discriminator: nn.Module | None = None,
        teacher: FlowTeacher | None = None,
        processes: Processes | None = None,
        similarity: FeatureNet | None = None,
        described: Mapping[str, object] | None = None,
    ) -> None:
        self.settings, self.config, self.generator, self.stream = settings, config, generator, stream
        self.encoder, self.teacher = encoder.to(generator.device), teacher
        self.processes, self.device, self.described = processes or Processes(), generator.device, described or {}
        settings.check(generator, self.processes.count)
        encoder.check_fits(generator)
        self.precision = precision_of(settings.precision, self.device)
        self.synthesis = copy.deepcopy(generator).set_precision(self.precision).set_memory_format(torch.channels_last)
        self.distortion = Distortion(generator, settings.perceptual_net, similarity=similarity)
        torch.manual_seed(settings.seed)
        self.net = RefinerNet(config).to(self.device).to(memory_format=torch.channels_last).train()
        if config.reader == "ir-se-50":  # the base encoder's first stages, as in the paper; they stay as they are
            take_first_stages(self.net, encoder)
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self._trained, lr=settings.lr)
        self.discriminator = discriminator if settings.adversarial_weight else None
        if self.discriminator is not None:
            self.discriminator.to(self.device).train().requires_grad_(True)
            self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=settings.d_lr, betas=(0.0, 0.99))

    def start_from(self, refiner: TrainedRefiner) -> None:
        """Begin with the weights of a trained refiner instead of random ones.

        Raises CheckpointError where they do not fit.
        """
        begin_with(refiner.net, (self.net, self.ema), refiner.name)

    @property
    def parts(self) -> tuple[str, ...]:
        adversarial = () if self.discriminator is None else ("discriminator", "d_optimizer")
        return ("net", "ema", "optimizer", *adversarial)

    @property
    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.net.parameters() if parameter.requires_grad]

    @property
    def steps(self) -> int:
        return self.settings.steps

    @property
    def made_from(self) -> dict[str, object]:
        architecture = {f"refiner's {key}": value for key, value in asdict(self.config).items()}
        networks = {"generator": self.generator.fingerprint, "encoder": self.encoder.fingerprint}
        adversarial = {"discriminator": self.discriminator is not None}
        return architecture | networks | adversarial | dict(self.described)

    @property
    def images_seen(self) -> int:
        return self.step * self.settings.batch

    def agree(self, asked: bool) -> bool:
        return self.processes.agree(asked, self.device)

    def trained(self, card: Mapping[str, object] | None = None) -> TrainedRefiner:
        """A copy of the refiner with the moving average of its weights, in evaluation mode."""
        net = copy.deepcopy(self.ema).to(memory_format=torch.contiguous_format)
        return TrainedRefiner(net, self.generator.fingerprint, f"refiner-{self.settings.kind}", card or {})

    def update(self) -> RefinerRecord:
        """One step. Its record has batch means of the losses that the step's path has: `step`, `edits`, `loss`, `l2`,
        `perceptual`, `similarity`, `adversarial`, `feature`, `flow`, `d_loss`, `seconds`.
        """
        started = time.perf_counter()
        s = self.settings
        rng = torch.Generator(self.device).manual_seed(step_seed(s.seed, self.step))
        target = self.processes.share(self.stream.batch(self.step, s.batch)).to(self.device)
        z = torch.randn(s.batch, self.generator.z_dim, generator=rng, device=self.device)
        share = s.alpha + (s.alpha_max - s.alpha) * torch.rand(s.batch, 1, 1, generator=rng, device=self.device)
        edits = s.edits(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = s.lr * s.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        with torch.no_grad():
            base = self.encoder.encode(self.generator, target)[-1]
            random = self.generator.broadcast(self.generator.mapping(self.processes.share(z)))
        if edits:
            fake, losses = self._cycle(target, base, self.processes.share(share), random)
        else:
            fake, losses = self._plain(target, base)
        losses["loss"].backward()
        self.processes.average_gradients(self._trained)
        self.optimizer.step()
        if self.discriminator is not None:
            losses["d_loss"] = self._update_discriminator(target, fake.detach())
        average_(self.ema, self.net, min(s.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        means = self.processes.mean(torch.stack([loss.detach().float() for loss in losses.values()])).tolist()
        record = {"step": self.step, "edits": edits, **dict(zip(losses, means, strict=True))}
        return record | {"seconds": time.perf_counter() - started}

    def _plain(self, target: Tensor, base: GeneratorInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The path without edit: the picture [B,C,H,W] and the losses."""
        s = self.settings
        image, added, _ = self._refined(target, base, base)
        losses = self._likeness(image, target)
        loss = s.l2_weight * losses["l2"] + s.perceptual_weight * losses["perceptual"]
        loss = loss + s.similarity_weight * losses["similarity"]
        return image, self._with_priors(losses, loss, image, [added])

    def _cycle(
        self, target: Tensor, base: GeneratorInputs, share: Tensor, random: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Edited at random and back (equation 2): the edited picture, and the losses of the picture that comes back."""
        s = self.settings
        step = share * (random - base.ws)  # [B,L,C]
        edited = base.replace(ws=base.ws + step)
        image, added, flow = self._refined(target, base, edited)
        with torch.no_grad():
            again = self.encoder.encode(self.generator, image.detach())[-1]
            returned = again.replace(ws=again.ws - step)
        back, more, flow_back = self._refined(image, again, returned)
        losses = self._likeness(back, target)
        loss = s.cycle_perceptual * losses["perceptual"] + s.cycle_similarity * losses["similarity"]
        if self.teacher is not None and s.flow_weight and flow is not None and flow_back is not None:
            losses["flow"] = self._flow_loss(flow, base, edited) + self._flow_loss(flow_back, again, returned)
            loss = loss + s.flow_weight * losses["flow"]
        return image, self._with_priors(losses, loss, image, [added, more])

    def _with_priors(
        self, losses: dict[str, Tensor], loss: Tensor, image: Tensor, added: list[Tensor]
    ) -> dict[str, Tensor]:
        """The losses that both paths have, and the sum of all as `loss`."""
        s = self.settings
        losses["feature"] = torch.stack([x.float().abs().mean() for x in added]).mean()  # equation 8
        loss = loss + s.feature_weight * losses["feature"]
        if self.discriminator is not None:
            with self._autocast():
                losses["adversarial"] = generator_loss(self.discriminator(image).float())
            loss = loss + s.adversarial_weight * losses["adversarial"]
        return {"loss": loss, **losses}

    def _likeness(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            return self.distortion(in_colour(image), self.distortion.target(in_colour(target)))

    def _refined(
        self, target: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The picture [B,C,H,W] of the edited latents, what was added to its features, and the flow."""
        before = self._features(inputs)
        after = before if edited is inputs else self._features(edited)
        with self._autocast():
            missing = self.net.missing(target, before[-1])
            flow = self.net.flow(before, after) if self.config.kind == "warpres" else None
            added = self.net.added(self.net.moved(missing, flow), after[-1])
        drawn = edited.replace(residuals={self.config.tap.name: added})
        beginning = self.synthesis.begin(edited, {f"residuals/{self.config.tap.name}"})
        return self.synthesis.synthesis(drawn, beginning=beginning).float(), added, flow

    @torch.no_grad()
    def _features(self, inputs: GeneratorInputs) -> list[Tensor]:
        found = self.synthesis.activations_of(inputs, self.config.layers)
        return [found[name].float() for name in self.config.layers]

    def _flow_loss(self, flow: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs) -> Tensor:
        """The difference from what the teacher sees between the pictures of the two codes, unrefined."""
        assert self.teacher is not None
        with torch.no_grad():
            pictures = (self.synthesis.synthesis(x).float() for x in (inputs, edited))
            seen = resized_flow(self.teacher(*pictures), self.config.tap.size)
        return (flow - seen).abs().mean()

    def _update_discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        s, discriminator = self.settings, self.discriminator
        assert discriminator is not None
        discriminator.requires_grad_(True)
        for group in self.d_optimizer.param_groups:
            group["lr"] = s.d_lr * s.rate(self.step)
        self.d_optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = discriminator_loss(discriminator(real).float(), discriminator(fake).float())
        total = loss
        if self.step % s.r1_interval == 0:
            _, penalty = r1_penalty(discriminator, real)
            total = loss + penalty * (s.r1 / 2 * s.r1_interval)
        total.backward()
        self.processes.average_gradients(discriminator.parameters())
        self.d_optimizer.step()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)


def take_first_stages(net: RefinerNet, encoder: Encoder) -> None:
    """Read the picture with the encoder's own first stages, frozen. Raises CheckpointError where it has others."""
    own, found = net.reader.state_dict(), encoder.net.backbone.state_dict()
    if encoder.config.backbone != "ir-se-50" or encoder.config.in_channels != 3 or not own.keys() <= found.keys():
        raise CheckpointError(f"{encoder.name}: reader ir-se-50 needs a pSp or e4e encoder on IR-SE-50")
    net.reader.load_state_dict({name: found[name] for name in own})
    net.reader.requires_grad_(False).eval()
