"""The network of a refiner: what reads the picture, E1 and E2, and the flow between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from latentopt.encoders.backbone import IRSE50
from latentopt.encoders.heads import resized
from latentopt.errors import CheckpointError
from latentopt.pictures.channels import in_colour
from latentopt.protocols import Generator
from latentopt.refiners.blocks import DIFFERENCES, FUSIONS, ResBlock
from latentopt.refiners.config import RefinerConfig
from latentopt.refiners.flow import FlowNet
from latentopt.refiners.warping import warp


class Stem(nn.Module):
    """A picture [B,3,H,W] -> features [B,width,h,w] `factor` times smaller; no pixel is lost before the first weights.

    The paper takes the base encoder's features here. A stem of the refiner's own makes do with any code as the base:
    another encoder's, or the end of an optimisation.
    """

    def __init__(self, factor: int, width: int) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(factor)
        self.conv = nn.Conv2d(3 * factor**2, width, 3, 1, 1)
        self.block = ResBlock(width, width)

    def forward(self, image: Tensor) -> Tensor:
        return self.block(self.conv(self.unshuffle(image)))


class FirstStages(nn.Module):
    """IR-SE-50 up to its 128 channels at a quarter of the picture's size, as StyleRes reads the picture."""

    def __init__(self) -> None:
        super().__init__()
        whole = IRSE50(3)
        self.input_layer = whole.input_layer
        self.body = whole.body[: whole.taps[0] + 1]

    def forward(self, image: Tensor) -> Tensor:
        return self.body(self.input_layer(image))


class RefinerNet(nn.Module):
    """Reader, E1, E2 and, for WarpRes, the flow network."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        factor, drawn = config.image_size[0] // config.tap.size[0], config.tap.channels
        self.reader = FirstStages() if config.reader == "ir-se-50" else Stem(factor, config.read_width)
        self.difference = DIFFERENCES[config.form](config.read_width, drawn, config.width)
        self.fusion = FUSIONS[config.form](drawn, config.width)
        if config.kind == "warpres":
            self.flow = FlowNet(config.channels, config.flow_width)

    def missing(self, target: Tensor, drawn: Tensor) -> Tensor:
        """F_a of equation 1: what the features `drawn` [B,c,h,w] of the unedited latents lack of target [B,3,H,W]."""
        picture = resized(in_colour(target.float()), self.config.image_size)
        return self.difference(self.reader(picture), drawn)

    def moved(self, missing: Tensor, flow: Tensor | None) -> Tensor:
        """F_wa: the same where the edit has moved it to."""
        return missing if flow is None else warp(missing, flow)

    def added(self, moved: Tensor, drawn: Tensor) -> Tensor:
        """F of equation 3: what is added to the features `drawn` [B,c,h,w] of the edited latents."""
        return self.fusion(moved, drawn)


@dataclass
class TrainedRefiner:
    """A network and what belongs to it. `generator` is the fingerprint of the one that it was trained for, or ""."""

    net: RefinerNet
    generator: str = ""
    name: str = "refiner"
    card: Mapping[str, object] = field(default_factory=dict)

    @property
    def config(self) -> RefinerConfig:
        return self.net.config

    @property
    def fingerprint(self) -> str:
        """Identifies weights and architecture."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check_generator(self, generator: Generator, force: bool = False) -> None:
        """Raise CheckpointError for a generator that it was not trained for; with `force`, where it does not fit."""
        if self.generator not in ("", generator.fingerprint) and not force:
            raise CheckpointError(
                f"{self.name}: trained for generator {self.generator}, not for {generator.name!r} "
                f"({generator.fingerprint}); name its own generator, or force it where one was made from the other"
            )
        self.config.check_fits(generator, self.name)

    def to(self, device: torch.device | str) -> TrainedRefiner:
        """Move to `device`; returns itself."""
        self.net.to(device)
        return self
