"""Streams of training images: the same step gives the same batch, so that a resumed training continues exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latentopt.data.portraits import MIRRORED, NAMES, TRAIN_SEEDS, attributes_of, cached, independent_normals, render
from latentopt.errors import UsageError
from latentopt.statistics.streams import step_stream


def step_seed(seed: int, step: int) -> int:
    """The seed of all that is random in one step of a training, for a generator of any device."""
    # The arithmetic of `step_stream` stays: with other numbers the snapshots of earlier releases would go on otherwise,
    # and the bundled weights could not be made again by the commands in their cards.
    return step_stream(seed, step).initial_seed()


class ImageStream(Protocol):
    """Training images: `batch(step, size)` is [size,3,H,W] in [-1,1], the same for the same step after a resume."""

    def batch(self, step: int, size: int) -> Tensor: ...


class LabelledStream(ImageStream, Protocol):
    """Images with a row of numbers each."""

    def labelled_batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images [size,3,H,W] in [-1,1] and their labels [size,A]."""


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
        return self._draw(step, size)[0]

    def labelled_batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images [size,3,H,W] in [-1,1] and their attributes [size,A]. Raises UsageError where there are none."""
        if self.attributes is None:
            raise UsageError("these training images have no attributes")
        images, rows, flip = self._draw(step, size)
        attributes = self.attributes[rows]
        if self.mirrored is not None:
            attributes = torch.where(flip[:, None] & self.mirrored[None], -attributes, attributes)
        return images, attributes

    def _draw(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images [size,3,H,W], their rows in the array and which of them are mirrored, [size] each."""
        rng = step_stream(self.seed, step)
        rows = torch.randint(len(self.images), (size,), generator=rng)
        flip = (torch.rand(size, generator=rng) < 0.5) & self.flips
        images = torch.from_numpy(self.images[rows.numpy()]).float().div_(127.5).sub_(1)
        return torch.where(flip[:, None, None, None], images.flip(-1), images), rows, flip


@dataclass(frozen=True)
class DrawnStream:
    """Portraits that are drawn anew for each step, on a device: none is seen twice."""

    resolution: int
    device: torch.device | str = "cpu"
    seed: int = 0

    def batch(self, step: int, size: int) -> Tensor:
        """[size,3,H,W] in [-1,1]."""
        return self.labelled_batch(step, size)[0]

    def labelled_batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Portraits [size,3,H,W] in [-1,1] and the variables behind their attributes [size,A]."""
        normals = torch.randn(size, len(NAMES), generator=step_stream(self.seed, step))
        return render(attributes_of(normals).to(self.device), self.resolution), normals.to(self.device)


def portrait_stream(directory: Path, n: int, resolution: int, seed: int = 0) -> ArrayStream:
    """The first `n` training portraits, drawn once into `directory`, and their attributes."""
    images, attributes = cached(directory, n, resolution, TRAIN_SEEDS.start)
    return ArrayStream(images, attributes, _mirrored(), seed)


def stream_with_normals(
    directory: Path, n: int, resolution: int, seed: int = 0, device: torch.device | str = "cpu"
) -> LabelledStream:
    """The first `n` training portraits, drawn once into `directory`, or new ones at each step on `device` where n is 0.

    Their labels are the variables behind their attributes.
    """
    if n == 0:
        return DrawnStream(resolution, device, seed)
    images, _ = cached(directory, n, resolution, TRAIN_SEEDS.start)
    normals = independent_normals(range(TRAIN_SEEDS.start, TRAIN_SEEDS.start + n)).float()
    return ArrayStream(images, normals, _mirrored(), seed)


def _mirrored() -> Tensor:
    return torch.tensor([name in MIRRORED for name in NAMES])
