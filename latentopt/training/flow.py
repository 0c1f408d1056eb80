"""Training of the network that finds the flow between two pictures, on pairs whose flow is known.

It stands for the pretrained flow network of Yildirim et al. (Truong et al. 2021), with no weights of others: pictures
and the generator's samples are warped by random affine maps and thin-plate splines, heads of portraits are turned.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from latentopt.data.portraits import NAMES, attributes_of, render
from latentopt.data.warps import affine_flow, head_flow, spline_flow
from latentopt.errors import UsageError
from latentopt.pictures.channels import in_colour
from latentopt.protocols import Generator
from latentopt.refiners.teachers import WarpFlowConfig, WarpFlowNet
from latentopt.refiners.warping import resized_flow, warp
from latentopt.training.loop import Trainer, average_
from latentopt.training.precision import autocast, precision_of
from latentopt.training.streams import ImageStream, step_seed
from latentopt.types import GeneratorInputs

FlowRecord = dict[str, Any]
FINE = 0.5  # of the rows of ws: those after it are another sample's in the second picture
TURNED = 0.5  # of the portraits' pairs


@dataclass(frozen=True)
class FlowTraining:
    """Settings of one training. `size`: longer side of the pictures; the rate falls to 0 over the second half."""

    steps: int = 3000
    batch: int = 16
    lr: float = 1e-3
    size: int = 64
    ema: float = 0.999
    colour: float = 0.25
    precision: str = "auto"
    seed: int = 0

    def rate(self, step: int) -> float:
        left = (self.steps - step) / (0.5 * self.steps)
        return self.lr * (1 - math.cos(math.pi * min(left, 1.0))) / 2


@dataclass(frozen=True)
class Pairs:
    """Pictures before and after [B,3,H,W], the flow [B,2,H,W] between them, and where it is known [B,1,H,W]."""

    before: Tensor
    after: Tensor
    flow: Tensor
    known: Tensor


class FlowTrainer(Trainer[FlowRecord]):
    """A flow network, its moving average and the optimiser. portraits: whether heads may be turned."""

    settings: FlowTraining
    parts = ("net", "ema", "optimizer")

    def __init__(
        self,
        settings: FlowTraining,
        generator: Generator,
        stream: ImageStream,
        portraits: bool = False,
        described: Mapping[str, object] | None = None,
    ) -> None:
        if min(settings.steps, settings.batch) < 1:
            raise UsageError("steps and batch must be at least 1")
        if generator.c_dim:
            raise UsageError(f"{generator.name}: takes labels; flow networks are trained for generators without")
        self.settings, self.generator, self.stream = settings, generator, stream
        self.portraits, self.described, self.device = portraits, described or {}, generator.device
        self.precision = precision_of(settings.precision, self.device)
        self.synthesis = copy.deepcopy(generator).set_precision(self.precision)
        torch.manual_seed(settings.seed)
        self.net = WarpFlowNet(WarpFlowConfig(size=settings.size)).to(self.device).train()
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.lr)

    @property
    def steps(self) -> int:
        return self.settings.steps

    @property
    def made_from(self) -> dict[str, object]:
        net = {f"net's {key}": value for key, value in asdict(self.net.config).items()}
        return net | {"generator": self.generator.fingerprint} | dict(self.described)

    def update(self) -> FlowRecord:
        """One step. Its record: `step`, `error` (mean absolute difference of the flow, in pixels), `seconds`."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        pairs = self.pairs(self.step)
        with autocast(self.device, self.precision):
            found = self.net(pairs.before, pairs.after)
        size = (found.shape[2], found.shape[3])
        known = torch.nn.functional.interpolate(pairs.known, size=size, mode="area")
        loss = ((found - resized_flow(pairs.flow, size)).abs() * known).sum() / (2 * known.sum().clamp_min(1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        average_(self.ema, self.net, min(self.settings.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return {"step": self.step, "error": loss.item(), "seconds": time.perf_counter() - started}

    @torch.no_grad()
    def pairs(self, step: int) -> Pairs:
        """What a step learns from: in turn pictures of the stream, samples, and of portraits also turned heads."""
        rng = torch.Generator(self.device).manual_seed(step_seed(self.settings.seed, step))
        kinds = (self._pictures, self._samples, *((self._turned,) if self.portraits else ()))
        return kinds[step % len(kinds)](step, rng)

    def _pictures(self, step: int, rng: torch.Generator) -> Pairs:
        image = in_colour(self.stream.batch(step, self.settings.batch).to(self.device))
        return self._warped(image, self._recoloured(image, rng), rng)

    def _samples(self, step: int, rng: torch.Generator) -> Pairs:
        """Two samples with the same coarse styles: what differs between them has not moved."""
        generator, count = self.generator, self.settings.batch
        z = torch.randn(2 * count, generator.z_dim, generator=rng, device=self.device)
        one, other = generator.broadcast(generator.mapping(z)).chunk(2)
        rows = torch.arange(generator.num_ws, device=self.device)[:, None] < FINE * generator.num_ws
        both = torch.cat([one, torch.where(rows, one, other)])
        before, after = in_colour(self.synthesis.synthesis(GeneratorInputs(both)).float().clamp(-1, 1)).chunk(2)
        return self._warped(before, after, rng)

    def _turned(self, step: int, rng: torch.Generator) -> Pairs:
        """One head drawn twice, turned and moved."""
        normals = torch.randn(self.settings.batch, len(NAMES), generator=rng, device=self.device)
        changed = normals.clone()
        for name in ("yaw", "position_x", "position_y"):
            column = NAMES.index(name)
            changed[:, column] = torch.randn(len(normals), generator=rng, device=self.device)
        first, second = (attributes_of(x).to(self.device) for x in (normals, changed))
        side = self._size[0]
        flow, known = head_flow(first, second, (side, side))
        return Pairs(render(first, side), render(second, side), flow, known)

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.generator.resolution
        share = min(self.settings.size / max(height, width), 1.0)
        return max(8, round(height * share)), max(8, round(width * share))

    def _warped(self, before: Tensor, like: Tensor, rng: torch.Generator) -> Pairs:
        """`before`, and `like`, which lies on it, warped."""
        size = (before.shape[2], before.shape[3])
        flow = spline_flow(len(before), size, rng, before)
        affine = affine_flow(len(before), size, rng, before)
        flow = flow + warp(affine, flow)  # first the one, then the other
        return Pairs(before, warp(like, flow), flow, self._inside(flow))

    @staticmethod
    def _inside(flow: Tensor) -> Tensor:
        """Where p + flow(p) lies in the picture."""
        h, w = flow.shape[2:]
        x = flow[:, :1] + torch.arange(w, device=flow.device)
        y = flow[:, 1:] + torch.arange(h, device=flow.device)[:, None]
        return ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)).float()

    def _recoloured(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """Other brightness and contrast of each channel."""
        draw = torch.randn(2, len(image), 3, 1, 1, generator=rng, device=self.device) * self.settings.colour
        return (image * draw[0].exp() + draw[1]).clamp(-1, 1)
