"""Training of the networks that read attributes from portraits: the perceptual network and the judge.

They share nothing but this loop: other architectures, seeds and training images, and only the judge is trained to tell
persons apart. Resumable at any snapshot; the same step always sees the same images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from latentopt.data.portraits import ATTRIBUTES, MIRRORED, NAMES, TEST_SEEDS, VERSION, cached, portraits, render
from latentopt.errors import CheckpointError, UsageError
from latentopt.judge.network import Judge, JudgeConfig, save_judge
from latentopt.perceptual.network import PerceptualNet, PerceptualNetConfig, save_perceptual_net, stage_distance
from latentopt.training.degradations import degrade
from latentopt.training.snapshots import load_snapshot, save_snapshot
from latentopt.training.streams import ArrayStream

BINARY = tuple(attribute.name for attribute in ATTRIBUTES if attribute.kind == "binary")
IDENTITY = (
    *("beard", "hair_length", "hair_tone", "hair_red", "fringe"),
    *("skin_tone", "face_width", "face_height", "iris_tone"),
)  # what makes a person; pose, expression, light, clothes, background and glasses do not
PERCEPTUAL_SEED, JUDGE_SEED = 1, 2
JUDGE_START = 60_000  # the judge's training portraits come after those of every other network
STRENGTH_STD = 0.25  # of the degradations' strengths, about: they weigh as much as an attribute
RANDOM_PAIR_DISTANCE = 0.5  # perceptual distance of two random portraits, after `calibrate_stages`


class AttributeNet(Protocol):
    """Reads [B,A+2] standardised attributes and degradations, and may embed identity [B,E]; `read` gives [B,A]."""

    mean: Tensor
    std: Tensor
    binary: Tensor

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]: ...

    def read(self, image: Tensor) -> Tensor: ...


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
    precision: str = "bfloat16"
    seed: int = 0


@dataclass(frozen=True)
class AttributeStep:
    """One record a step: batch means of the attribute loss and the identity loss (0 without one)."""

    step: int
    attributes: float
    identity: float
    seconds: float


def train_attributes(
    net: torch.nn.Module,
    stream: ArrayStream,
    settings: AttributeTraining,
    snapshot: Path | None = None,
    device: torch.device | str = "cpu",
    snapshot_seconds: float = 60.0,
) -> Iterator[AttributeStep]:
    """Train `net` (an `AttributeNet`) in place until `settings.steps`.

    Continues from `snapshot` if that is there, and writes it every `snapshot_seconds` and at the end.

    Raises:
        CheckpointError: the snapshot was made with other settings.
    """
    device, step = torch.device(device), 0
    net.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
    if snapshot is not None and snapshot.exists():
        step = _load(snapshot, parts, settings, device)
    saved = time.monotonic()
    while step < settings.steps:
        started = time.perf_counter()
        attributes, identity = _losses(net, stream, settings, step, device)
        optimizer.zero_grad(set_to_none=True)
        (attributes + settings.identity_weight * identity).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        if snapshot is not None and (time.monotonic() - saved > snapshot_seconds or step == settings.steps):
            _save(snapshot, parts, settings, step)
            saved = time.monotonic()
        yield AttributeStep(step, attributes.item(), identity.item(), time.perf_counter() - started)
    net.eval()


def _losses(
    net: AttributeNet, stream: ArrayStream, settings: AttributeTraining, step: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Attribute loss and identity loss of one step."""
    images, attributes = stream.labelled_batch(step, settings.batch)
    pairs = settings.partners if settings.identity_weight else 0
    if pairs:
        seen_otherwise = partners(attributes)[:pairs]
        images = torch.cat([images, render(seen_otherwise, images.shape[-1])])
        attributes = torch.cat([attributes, seen_otherwise])
    rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    images, strengths = degrade(images.to(device), rng, settings.degraded)
    with torch.autocast(device.type, getattr(torch, settings.precision), enabled=settings.precision != "float32"):
        raw, embedding = net(images.contiguous(memory_format=torch.channels_last))
    loss = attribute_loss(net, raw.float(), attributes.to(device), strengths)
    if not pairs:
        return loss, loss.new_zeros([])
    return loss, identity_loss(embedding.float(), settings.batch, settings.temperature)


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


def _save(path: Path, parts: dict[str, object], settings: AttributeTraining, step: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "settings": json.dumps(asdict(settings))}
    save_snapshot(path, state)


def _load(path: Path, parts: dict[str, object], settings: AttributeTraining, device: torch.device) -> int:
    state = load_snapshot(path, device)
    if state["settings"] != json.dumps(asdict(settings)):
        raise CheckpointError(f"{path}: made with other settings ({state['settings']}); delete it to start again")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]


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


def train_perceptual(
    out: Path,
    data: Path,
    steps: int = 3000,
    images: int = 60_000,
    seed: int = PERCEPTUAL_SEED,
    device: torch.device | str = "cpu",
    resolution: int = 64,
) -> Iterator[AttributeStep]:
    """Train the perceptual network of the bundled domain into the file `out`.

    Call again after an interruption to go on; nothing is done where `out` is there already.

    Args:
        out: `.safetensors` file; the snapshot lies beside it until the training is complete.
        data: folder in which the training portraits are kept.
        images: number of training portraits, at most `JUDGE_START`.

    Raises:
        UsageError: too many images.
    """
    if images > JUDGE_START:
        raise UsageError(f"{images} images: those from {JUDGE_START} on are kept for the judge")
    torch.manual_seed(seed)
    net = PerceptualNet(PerceptualNetConfig(NAMES, BINARY, resolution=resolution))
    settings = AttributeTraining(steps=steps, seed=seed)

    def finish(card: dict[str, object], test: Tensor) -> None:
        calibrate_stages(net, test)
        save_perceptual_net(out, net, card)

    yield from _train_to(net, out, data, settings, range(images), device, resolution, finish)


def train_judge(
    out: Path,
    data: Path,
    steps: int = 3000,
    images: int = 40_000,
    seed: int = JUDGE_SEED,
    device: torch.device | str = "cpu",
    resolution: int = 64,
) -> Iterator[AttributeStep]:
    """Train the judge of the bundled domain into the file `out`, as `train_perceptual`, on portraits of its own."""
    torch.manual_seed(seed)
    net = Judge(JudgeConfig(NAMES, BINARY, resolution=resolution))
    settings = AttributeTraining(steps=steps, batch=48, identity_weight=0.2, seed=seed)
    seeds = range(JUDGE_START, JUDGE_START + images)
    yield from _train_to(
        net, out, data, settings, seeds, device, resolution, lambda card, _: save_judge(out, net, card)
    )


def _train_to(
    net: torch.nn.Module,
    out: Path,
    data: Path,
    settings: AttributeTraining,
    seeds: range,
    device: torch.device | str,
    resolution: int,
    finish: Callable[[dict[str, object], Tensor], None],
) -> Iterator[AttributeStep]:
    maker = "train_perceptual" if isinstance(net, PerceptualNet) else "train_judge"
    snapshot = out.with_suffix(".snapshot.pt")
    if out.exists() and not snapshot.exists():
        return
    array, attributes = cached(data, len(seeds), resolution, seeds.start)
    net.mean.copy_(torch.where(net.binary, 0.0, attributes.mean(dim=0)))
    net.std.copy_(torch.where(net.binary, 1.0, attributes.std(dim=0)))
    stream = ArrayStream(array, attributes, torch.tensor([name in MIRRORED for name in NAMES]), settings.seed)
    yield from train_attributes(net, stream, settings, snapshot, device)
    net.to("cpu")
    test, truth = portraits(TEST_SEEDS[:2000], resolution)
    card = {
        "data": f"procedural portraits, version {VERSION}, {resolution}x{resolution} pixels",
        "seeds": [seeds.start, seeds.stop],
        "training": asdict(settings),
        "command": f"{maker}(out, data, steps={settings.steps}, images={len(seeds)}, seed={settings.seed})",
        "licence": "Apache-2.0",
        "test_accuracy": {name: round(value, 4) for name, value in accuracy(net, test, truth).items()},
    }
    finish(card, test[:500])
    snapshot.unlink(missing_ok=True)
