"""Streams of training images: the same step gives the same batch, so that a resumed training continues exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentopt.data.portraits import MIRRORED, NAMES, TRAIN_SEEDS, cached


@dataclass(frozen=True)
class ArrayStream:
    """8-bit images [n,3,H,W], drawn at random and mirrored at random.

    `attributes` [n,A] float32, if given, are those of the images; `mirrored` names the columns that change sign when an
    image is mirrored.
    """

    images: np.ndarray
    attributes: Tensor | None = None
    mirrored: Tensor | None = None
    seed: int = 0
    flips: bool = True

    def batch(self, step: int, size: int) -> Tensor:
        """[size,3,H,W] in [-1,1]."""
        return self.labelled_batch(step, size)[0]

    def labelled_batch(self, step: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Images [size,3,H,W] in [-1,1] and their attributes [size,A]."""
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randint(len(self.images), (size,), generator=rng)
        flip = (torch.rand(size, generator=rng) < 0.5) & self.flips
        images = torch.from_numpy(self.images[rows.numpy()]).float().div_(127.5).sub_(1)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        if self.attributes is None:
            return images, None
        attributes = self.attributes[rows]
        if self.mirrored is not None:
            attributes = torch.where(flip[:, None] & self.mirrored[None], -attributes, attributes)
        return images, attributes


def portrait_stream(directory: Path, n: int, resolution: int, seed: int = 0) -> ArrayStream:
    """The first `n` training portraits, drawn once into `directory`."""
    images, attributes = cached(directory, n, resolution, TRAIN_SEEDS.start)
    mirrored = torch.tensor([name in MIRRORED for name in NAMES])
    return ArrayStream(images, attributes, mirrored, seed)
