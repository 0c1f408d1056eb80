"""The perceptual network and the judge of the portraits domain, each trained by one call into one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentopt.data.portraits import MIRRORED, NAMES, TEST_SEEDS, VERSION, cached, portraits
from latentopt.errors import UsageError
from latentopt.judge.network import Judge, JudgeConfig, save_judge
from latentopt.perceptual.network import PerceptualNet, PerceptualNetConfig, save_perceptual_net
from latentopt.training.attributes import (
    BINARY,
    AttributeNet,
    AttributeStep,
    AttributeTrainer,
    AttributeTraining,
    accuracy,
    calibrate_stages,
)
from latentopt.training.loop import Training
from latentopt.training.streams import ArrayStream

PERCEPTUAL_SEED, JUDGE_SEED = 1, 2
JUDGE_START = 60_000  # the judge's training portraits come after those of every other network
SNAPSHOT_SECONDS = 60.0
TESTED = 2000  # portraits that the accuracy in the card is measured on
CALIBRATED = 500  # of them, those that the perceptual stages are weighed by


def train_perceptual(
    out: Path,
    data: Path,
    steps: int = 3000,
    images: int = 60_000,
    seed: int = PERCEPTUAL_SEED,
    device: torch.device | str = "cpu",
    resolution: int = 64,
) -> Training[AttributeStep]:
    """Train the perceptual network of the portraits domain into the file `out`, as the training is iterated.

    The same call goes on after an interruption; nothing is left to do where `out` is there already.

    Args:
        out: `.safetensors` file; the snapshot lies beside it until the training is complete.
        data: folder in which the training portraits are kept.
        images: number of training portraits, at most `JUDGE_START`.

    Raises:
        UsageError: too many images.
        CheckpointError: the snapshot is damaged, or was made with other settings.
    """
    if images > JUDGE_START:
        raise UsageError(f"{images} images: those from {JUDGE_START} on are kept for the judge")
    torch.manual_seed(seed)
    net = PerceptualNet(PerceptualNetConfig(NAMES, BINARY, resolution=resolution))
    settings = AttributeTraining(steps=steps, seed=seed)

    def save(card: dict[str, object], test: Tensor) -> None:
        calibrate_stages(net, test)
        save_perceptual_net(out, net, card)

    return _training(net, settings, out, data, range(images), resolution, device, save)


def train_judge(
    out: Path,
    data: Path,
    steps: int = 3000,
    images: int = 40_000,
    seed: int = JUDGE_SEED,
    device: torch.device | str = "cpu",
    resolution: int = 64,
) -> Training[AttributeStep]:
    """Train the judge of the portraits domain into the file `out`, as `train_perceptual`, on portraits of its own."""
    torch.manual_seed(seed)
    net = Judge(JudgeConfig(NAMES, BINARY, resolution=resolution))
    settings = AttributeTraining(steps=steps, batch=48, identity_weight=0.2, seed=seed)
    seeds = range(JUDGE_START, JUDGE_START + images)
    return _training(net, settings, out, data, seeds, resolution, device, lambda card, _: save_judge(out, net, card))


def _training(
    net: AttributeNet,
    settings: AttributeTraining,
    out: Path,
    data: Path,
    seeds: range,
    resolution: int,
    device: torch.device | str,
    save: Callable[[dict[str, object], Tensor], None],
) -> Training[AttributeStep]:
    """Train `net` on the portraits with these seeds; `save(card, test images [n,3,H,W])` writes `out` at the end."""
    snapshot = out.with_suffix(".snapshot.pt")
    if out.exists() and not snapshot.exists():
        return _finished(net, settings)
    array, attributes = cached(data, len(seeds), resolution, seeds.start)
    net.mean.copy_(torch.where(net.binary, 0.0, attributes.mean(dim=0)))
    net.std.copy_(torch.where(net.binary, 1.0, attributes.std(dim=0)))
    stream = ArrayStream(array, attributes, torch.tensor([name in MIRRORED for name in NAMES]), settings.seed)
    trainer = AttributeTrainer(settings, net, stream, device)

    def finish() -> None:
        if trainer.done:
            net.to("cpu").eval()
            test, truth = portraits(TEST_SEEDS[:TESTED], resolution)
            save(_card(net, settings, seeds, resolution, accuracy(net, test, truth)), test[:CALIBRATED])
            snapshot.unlink(missing_ok=True)

    return Training(trainer, snapshot, finish, every=SNAPSHOT_SECONDS)


def _finished(net: AttributeNet, settings: AttributeTraining) -> Training[AttributeStep]:
    """A training of which no step is left."""
    trainer = AttributeTrainer(settings, net, ArrayStream(np.empty((0, 3, 1, 1), np.uint8)))
    trainer.step = trainer.steps
    return Training(trainer)


def _card(
    net: AttributeNet, settings: AttributeTraining, seeds: range, resolution: int, read: dict[str, float]
) -> dict[str, object]:
    call = "train_perceptual" if isinstance(net, PerceptualNet) else "train_judge"
    return {
        "data": f"procedural portraits, version {VERSION}, {resolution}x{resolution} pixels",
        "seeds": [seeds.start, seeds.stop],
        "training": asdict(settings),
        "command": f"{call}(out, data, steps={settings.steps}, images={len(seeds)}, seed={settings.seed})",
        "licence": "Apache-2.0",
        "test_accuracy": {name: round(value, 4) for name, value in read.items()},
    }
