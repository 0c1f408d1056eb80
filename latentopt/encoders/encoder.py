"""Encoders: a picture to latent codes in one pass (pSp, e4e) or by repeated correction (ReStyle)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from latentopt.encoders.backbone import IRSE50, Backbone, ResNet34, Small
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.heads import FlatHead, PyramidHeads, SimpleHeads, SingleHead, resized
from latentopt.errors import CheckpointError, UsageError
from latentopt.pictures.channels import in_colour
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

RESTYLE_STEPS = 5  # as trained and used in the paper
MOST_STEPS = 100  # that a file's card is believed; its user may ask for more


class EncoderNet(nn.Module):
    """A backbone and heads: [B,in,h,w] -> codes [B,L,C], without the average."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        self.heads = _heads(config, self.backbone.channels)

    def forward(self, x: Tensor, stage: int | None = None) -> Tensor:
        """x [B,in,h,w] in [-1,1] of `config.image_size` -> [B,L,C].

        pSp: one code a row. e4e (its equation 4): row 0 is the base code v, row i is v + offset i for i up to `stage`,
        and v beyond; None: as far as the encoder is trained.
        """
        features = self.backbone(x)
        if not self.config.progressive:
            return self.heads(features)
        if stage is None:
            stage = self.config.num_ws - 1 if self.config.stage is None else self.config.stage
        base, offsets = self.heads(features, 1 + min(stage, self.config.num_ws - 1)).tensor_split([1], dim=1)
        rows = self.config.num_ws - 1 - offsets.shape[1]
        offsets = nn.functional.pad(offsets, (0, 0, 1, rows))  # [B,L,C], zero in row 0 and beyond the stage
        return base + offsets

    def official_names(self) -> dict[str, str]:
        """{name here: name in released files}."""
        return {name: name.split(".", 1)[1] for name in self.state_dict()}


def _backbone(config: EncoderConfig) -> Backbone:
    if config.backbone == "small":
        return Small(config.in_channels, config.widths)
    return {"ir-se-50": IRSE50, "resnet-34": ResNet34}[config.backbone](config.in_channels)


def _heads(config: EncoderConfig, channels: tuple[int, int, int]) -> nn.Module:
    if config.heads in ("w", "w+"):
        return {"w": SingleHead, "w+": FlatHead}[config.heads](channels, config.w_dim, config.num_ws)
    size = -(-max(config.image_size) // 16)  # of the coarse map
    width = config.head_width or config.w_dim
    if config.heads == "simple":
        return SimpleHeads(channels, width, config.w_dim, config.num_ws, size)
    return PyramidHeads(channels, width, config.w_dim, config.num_ws, size, config.groups)


@dataclass
class Encoder:
    """A trained net and what belongs to it.

    latent_avg [L,C], or None where the file has none: then the generator's mean of w. `generator` is the fingerprint of
    the generator that it was trained for, or "" where that is unknown; `notes` say what a file lacked.
    """

    net: EncoderNet
    latent_avg: Tensor | None = None
    generator: str = ""
    name: str = "encoder"
    card: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> EncoderConfig:
        return self.net.config

    @property
    def default_steps(self) -> int:
        """As many as ReStyle's encoder was trained with, where its card says it; the paper's five else."""
        settings = self.card.get("settings")
        trained = settings.get("restyle_steps") if isinstance(settings, Mapping) else None
        if not self.config.iterative:
            return 1
        return trained if isinstance(trained, int) and 1 <= trained <= MOST_STEPS else RESTYLE_STEPS

    @property
    def fingerprint(self) -> str:
        """Identifies weights, architecture and average."""
        digest = hashlib.sha256(self.config.to_json().encode())
        state = dict(self.net.state_dict()) | ({} if self.latent_avg is None else {"latent_avg": self.latent_avg})
        for name, tensor in sorted(state.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Encoder:
        """Move to `device`; returns itself."""
        self.net.to(device)
        self.latent_avg = None if self.latent_avg is None else self.latent_avg.to(device)
        return self

    def check_fits(self, generator: Generator) -> None:
        """Raise CheckpointError where the codes are not of the shape that `generator` takes."""
        made, taken = (self.config.num_ws, self.config.w_dim), (generator.num_ws, generator.w_dim)
        if made != taken:
            raise CheckpointError(
                f"{self.name}: makes codes [{made[0]},{made[1]}]; generator {generator.name!r} takes "
                f"[{taken[0]},{taken[1]}]: name the generator that it was trained for with --network"
            )

    def average(self, generator: Generator) -> Tensor:
        """What codes are relative to, [1,L,C]: the stored average or the generator's mean of w; 0 without a start."""
        if not self.config.start_from_average:
            return generator.w_avg.new_zeros(1, self.config.num_ws, self.config.w_dim)
        if self.latent_avg is None:
            return generator.broadcast(generator.w_avg[None].detach())
        return self.latent_avg[None].to(generator.w_avg)

    @torch.no_grad()
    def start_image(self, generator: Generator) -> Tensor:
        """The picture of the average latent with the stored noise, as the net takes it: [1,3,h,w]; ReStyle's step 0."""
        image = generator.synthesis(GeneratorInputs(self.average(generator))).float()
        return resized(in_colour(image), self.config.image_size)

    def codes(self, x: Tensor, ws: Tensor, shown: Tensor | None = None, stage: int | None = None) -> Tensor:
        """ws [B or 1,L,C] plus what the net makes of x [B,3,h,w] (and of what is shown so far): [B,L,C].

        Differentiable.

        ReStyle, equations 1 to 3; the picture comes first, its reconstruction second.
        """
        if shown is not None:
            x = torch.cat([x, shown.expand(len(x), -1, -1, -1)], dim=1)
        return ws + self.net(x, stage)

    @torch.no_grad()
    def encode(
        self,
        generator: Generator,
        target: Tensor,
        steps: int | None = None,
        start: GeneratorInputs | None = None,
        image: Tensor | None = None,
        stage: int | None = None,
    ) -> list[GeneratorInputs]:
        """The codes of target [B,3,H,W] in [-1,1] after each step; one-pass encoders have one.

        steps: of ReStyle; None: `default_steps`. start: what its first step corrects, not the average (encoder
        bootstrapping, ReStyle 4.4); image: how that looks, [B,3,H,W], where another generator drew it. stage: of e4e,
        see `EncoderNet`. Raises UsageError for steps or a start that a one-pass encoder cannot take, CheckpointError
        where it does not fit.
        """
        self.check_fits(generator)
        steps = self.default_steps if steps is None else steps
        if steps < 1:
            raise UsageError(f"steps must be at least 1, not {steps}")
        if stage is not None and stage < 0:
            raise UsageError(f"stage must be at least 0, not {stage}")
        if stage is not None and not self.config.progressive:
            raise UsageError(f"{self.name}: an encoder of kind {self.config.kind} has no stages; only e4e's do")
        x = resized(in_colour(target.float()), self.config.image_size)
        if not self.config.iterative:
            if steps != 1 or start is not None:
                raise UsageError(f"{self.name}: a one-pass encoder ({self.config.kind}) takes no steps and no start")
            return [GeneratorInputs(self.codes(x, self.average(generator), stage=stage).to(target))]
        if start is None:
            ws, shown = self.average(generator), self.start_image(generator)
        else:
            ws = start.ws
            image = generator.synthesis(start) if image is None else image
            shown = resized(in_colour(image.float()), self.config.image_size)
        found: list[GeneratorInputs] = []
        for step in range(steps):
            if step:
                shown = resized(in_colour(generator.synthesis(found[-1]).float()), self.config.image_size)
            ws = self.codes(x, ws, shown, stage).to(target)
            found.append(GeneratorInputs(ws))
        return found
