"""Training of the networks that read attributes from portraits: the perceptual network and the judge.

They share nothing but the trainer: other architectures, seeds and training images, and only the judge is trained to
tell persons apart. The same step always sees the same images.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from latentopt.data.portraits import ATTRIBUTES, NAMES, render
from latentopt.judge.network import Judge
from latentopt.perceptual.network import PerceptualNet, stage_distance
from latentopt.statistics.streams import step_stream
from latentopt.training.degradations import degrade
from latentopt.training.loop import Trainer
from latentopt.training.precision import autocast, precision_of
from latentopt.training.streams import ArrayStream

BINARY = tuple(attribute.name for attribute in ATTRIBUTES if attribute.kind == "binary")
IDENTITY = (
    *("beard", "hair_length", "hair_tone", "hair_red", "fringe"),
    *("skin_tone", "face_width", "face_height", "iris_tone"),
)  # what makes a person; pose, expression, light, clothes, background and glasses do not
STRENGTH_STD = 0.25  # of the degradations' strengths, about: they weigh as much as an attribute
RANDOM_PAIR_DISTANCE = 0.5  # perceptual distance of two random portraits, after `calibrate_stages`


AttributeNet = PerceptualNet | Judge
"""Reads [B,A+2] standardised attributes and degradations, and may embed identity [B,E]."""


@dataclass(frozen=True)
class AttributeTraining:
    """Settings of one training.

    `degraded` is the share of images that is blurred, coloured or noisy (each on its own draw). With
    `identity_weight`, each batch is followed by `partners` portraits of persons in it, seen otherwise.
    """

    steps: int = 2000
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    degraded: float = 0.25
    identity_weight: float = 0.0
    partners: int = 16
    temperature: float = 0.1
    precision: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class AttributeStep:
    """One record a step: batch means of the attribute loss and the identity loss (0 without one)."""

    step: int
    attributes: float
    identity: float
    seconds: float


class AttributeTrainer(Trainer[AttributeStep]):
    """A network that is trained in place, its optimiser and the optimiser's schedule."""

    settings: AttributeTraining
    parts = ("net", "optimizer", "schedule")

    def __init__(
        self,
        settings: AttributeTraining,
        net: AttributeNet,
        stream: ArrayStream,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.stream, self.device = settings, stream, torch.device(device)
        self.net = net.to(self.device).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, settings.steps)

    @property
    def steps(self) -> int:
        return self.settings.steps

    def update(self) -> AttributeStep:
        """One update of the network."""
        started = time.perf_counter()
        attributes, identity = self._losses()
        self.optimizer.zero_grad(set_to_none=True)
        (attributes + self.settings.identity_weight * identity).backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return AttributeStep(self.step, attributes.item(), identity.item(), time.perf_counter() - started)

    def _losses(self) -> tuple[Tensor, Tensor]:
        """Attribute loss and identity loss of one step."""
        s = self.settings
        images, attributes = self.stream.labelled_batch(self.step, s.batch)
        pairs = s.partners if s.identity_weight else 0
        if pairs:
            seen_otherwise = partners(attributes)[:pairs]
            images = torch.cat([images, render(seen_otherwise, images.shape[-1])])
            attributes = torch.cat([attributes, seen_otherwise])
        rng = step_stream(s.seed, self.step)
        images, strengths = degrade(images.to(self.device), rng, s.degraded)
        with autocast(self.device, precision_of(s.precision, self.device)):
            raw, embedding = self.net(images.contiguous(memory_format=torch.channels_last))
        loss = attribute_loss(self.net, raw.float(), attributes.to(self.device), strengths)
        if not pairs:
            return loss, loss.new_zeros([])
        return loss, identity_loss(embedding.float(), s.batch, s.temperature)


def attribute_loss(net: AttributeNet, raw: Tensor, attributes: Tensor, strengths: Tensor) -> Tensor:
    """Mean over columns of squared errors, in standard deviations; cross-entropy where the attribute is binary."""
    target = torch.cat([(attributes - net.mean) / net.std, strengths / STRENGTH_STD], dim=1)  # [B,A+2]
    binary = torch.cat([net.binary, net.binary.new_zeros(strengths.shape[1])])
    crossed = binary_cross_entropy_with_logits(raw[:, binary], target[:, binary], reduction="none")
    squared = (raw[:, ~binary] - target[:, ~binary]).square()
    return torch.cat([squared, crossed], dim=1).mean()


def partners(attributes: Tensor) -> Tensor:
    """The same persons [B,A] as others are seen: identity from each row, everything else from the row before."""
    identity = torch.tensor([name in IDENTITY for name in NAMES], device=attributes.device)
    return torch.where(identity, attributes, attributes.roll(1, 0))


def identity_loss(embedding: Tensor, batch: int, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): partner i, row batch+i of [B,E], must find row i among the first `batch`."""
    similarity = embedding[batch:] @ embedding[:batch].T / temperature
    return cross_entropy(similarity, torch.arange(len(similarity), device=similarity.device))


@torch.no_grad()
def accuracy(net: AttributeNet, images: Tensor, attributes: Tensor) -> dict[str, float]:
    """How well attributes [B,A] are read from images [B,3,H,W]: R^2 each, or the share right for binary ones."""
    read = torch.cat([net.read(part) for part in images.split(250)]).cpu()  # [B,A]
    residual = (read - attributes).square().sum(dim=0)
    r2 = 1 - residual / (attributes - attributes.mean(dim=0)).square().sum(dim=0)
    right = ((read > 0.5) == (attributes > 0.5)).float().mean(dim=0)
    return dict(zip(NAMES, torch.where(net.binary.cpu(), right, r2).tolist(), strict=True))


@torch.no_grad()
def calibrate_stages(net: PerceptualNet, images: Tensor) -> None:
    """Set the stage weights so that each stage has the same share of the mean distance of random pairs [B,3,H,W]."""
    features = net.features(images)
    means = torch.stack([stage_distance(stage, stage.roll(1, 0)).mean() for stage in features])
    net.stage_weights.copy_(RANDOM_PAIR_DISTANCE / (len(means) * means))
