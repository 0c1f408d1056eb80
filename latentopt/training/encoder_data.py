"""What encoders are trained on and validated with: portraits, a folder's pictures, or the generator's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from latentopt.data.folders import folder_images
from latentopt.data.portraits import TRAIN_SEEDS, portraits
from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.training.streams import ArrayStream, DrawnStream, ImageStream, portrait_stream, step_seed
from latentopt.types import GeneratorInputs

HELD_OUT = 64
HELD_OUT_SEED = 1 << 20
Size = tuple[int, int]


@dataclass(frozen=True)
class SampleStream:
    """Samples of a generator with random noise, pooled to `size` and clamped; new ones every step."""

    generator: Generator
    size: Size
    seed: int = 0

    @torch.no_grad()
    def batch(self, step: int, size: int) -> Tensor:
        """[size,3,H,W] in [-1,1], on the generator's device."""
        generator, device = self.generator, self.generator.device
        rng = torch.Generator(device).manual_seed(step_seed(self.seed + 1, step))
        z = torch.randn(size, generator.z_dim, generator=rng, device=device)
        inputs = GeneratorInputs(generator.broadcast(generator.mapping(z)))
        return adaptive_avg_pool2d(generator.synthesis(inputs, "random", rng), self.size).clamp(-1, 1)


@dataclass(frozen=True)
class TrainingData:
    """A stream, the images [n,3,H,W] held out of it, what they are (for the card), and pictures that were skipped."""

    stream: ImageStream
    held_out: Tensor
    described: dict[str, object]
    skipped: tuple[str, ...] = ()


def training_data(data: str, drawn: int, cache: Path, generator: Generator, size: Size, seed: int) -> TrainingData:
    """`data` is portraits, samples, or a folder, of which up to a tenth is held out (at most 64 images).

    Where `drawn` is 0, each step draws new portraits on the generator's device, and none is kept.

    Raises UsageError for pictures of a size that they are not made in and for folders with less than two pictures,
    ImageError for folders without readable ones.
    """
    if data == "samples":
        held_out = SampleStream(generator, size, seed + HELD_OUT_SEED).batch(0, HELD_OUT)
        return TrainingData(SampleStream(generator, size, seed), held_out, {"data": f"samples of {generator.name}"})
    if size[0] != size[1]:
        raise UsageError(f"--data {data}: pictures are made square, the encoder takes {size[0]}x{size[1]}; use samples")
    if data == "portraits":
        if drawn > TRAIN_SEEDS.stop - HELD_OUT:
            raise UsageError(f"--drawn {drawn}: at most {TRAIN_SEEDS.stop - HELD_OUT} portraits")
        held_out, _ = portraits(range(TRAIN_SEEDS.stop - HELD_OUT, TRAIN_SEEDS.stop), size[0])
        described = {"data": "portraits", "drawn": drawn}
        if drawn == 0:
            return TrainingData(DrawnStream(size[0], generator.device, seed), held_out, described)
        return TrainingData(portrait_stream(cache, drawn, size[0], seed), held_out, described)
    images, skipped = folder_images(Path(data), cache, size[0])
    if len(images) < 2:
        raise UsageError(f"--data {data}: at least two readable pictures are needed, one to be held out")
    kept = len(images) - max(1, min(HELD_OUT, len(images) // 10))
    held_out = torch.from_numpy(images[kept:].copy()).float().div_(127.5).sub_(1)
    described = {"data": f"folder {Path(data).name}", "pictures": kept}
    return TrainingData(ArrayStream(images[:kept], seed=seed), held_out, described, tuple(skipped))
