"""Starts that need no encoder: the mean, the centre of P-norm space, random samples, a saved result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentopt.checkpoints.npz import load_projected_w
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.storage import load_tensors
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator, Initializer
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.sampling import drawn_at_once, sample_w
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import Advance, phase


class Mean(Initializer):
    """`w_avg` in every layer. It is not the origin of P-norm space: clipped methods start from `p-mean`."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        w = self.generator.w_avg.detach().expand(len(target), -1)
        return GeneratorInputs(self.generator.broadcast(w).clone())


class PMean(Initializer):
    """The origin of P-norm space in every layer."""

    reads = {"stats": "p-norm"}

    def __init__(self, generator: Generator, *, stats: str | None = None) -> None:
        self.generator = generator
        self.pnorm = given_or_found(PNORM, generator, stats)[0]

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        w = self.pnorm.w_origin.to(target).expand(len(target), -1)
        return GeneratorInputs(self.generator.broadcast(w).clone())


class Sample(Initializer):
    """One random sample an image, from its seed."""

    def __init__(self, generator: Generator, *, label: int = 0) -> None:
        self.generator, self.label = generator, label

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        w = torch.cat([sample_w(self.generator, seed, 1, self.label) for seed in seeds])
        return GeneratorInputs(self.generator.broadcast(w).clone())


class BestOf(Initializer):
    """The nearest of `n` random samples, compared at `size` pixels (PULSE's downscaling loss, Menon et al. 2020)."""

    examples = ({"n": 6, "batch": 4},)

    def __init__(self, generator: Generator, *, n: int = 64, size: int = 32, label: int = 0, batch: int = 32) -> None:
        for name, value in (("n", n), ("size", size), ("batch", batch)):
            if value < 1:
                raise UsageError(f"best-of: {name} must be at least 1, not {value}")
        self.generator, self.n, self.size, self.label, self.batch = generator, n, size, label, batch

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        with phase("looking for a start", self.n * len(target), "samples") as advance:
            best = [self._nearest(image, seed, advance) for image, seed in zip(target, seeds, strict=True)]
        return GeneratorInputs(self.generator.broadcast(torch.stack(best)).clone())

    @torch.no_grad()
    def _nearest(self, image: Tensor, seed: int, on_progress: Advance) -> Tensor:
        w = sample_w(self.generator, seed, self.n, self.label)  # [n,C]
        small = shrink(image[None], self.size)
        distances = []
        for part in w.split(drawn_at_once(self.generator, self.batch)):
            drawn = self.generator.synthesis(GeneratorInputs(self.generator.broadcast(part)))
            distances.append((shrink(drawn, self.size) - small).square().mean(dim=(1, 2, 3)))
            on_progress(len(part))
        return w[torch.cat(distances).argmin()]


class File(Initializer):
    """One image's saved inputs or a projector's `projected_w.npz`, for every image.

    `path` is `inputs.safetensors`, the result's folder that holds it, or the `.npz`.
    What was saved with another generator is refused, unless `force`.
    """

    reads = {"path": "inputs"}
    examples = ({"path": "start.safetensors"},)

    def __init__(self, generator: Generator, *, path: str, force: bool = False) -> None:
        self.generator, self.force = generator, force
        self.path = Path(path) / "inputs.safetensors" if Path(path).is_dir() else Path(path)

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        inputs = self._read().to(target.device)
        expected = (1, self.generator.num_ws, self.generator.w_dim)
        if tuple(inputs.ws.shape) != expected:
            raise CheckpointError(
                f"{self.path}: holds latents {list(inputs.ws.shape)}, needed are one image's {list(expected)}"
            )
        return inputs.index([0] * len(target))

    def _read(self) -> GeneratorInputs:
        if self.path.suffix == ".npz":
            return GeneratorInputs(load_projected_w(self.path))
        fingerprint = load_tensors(self.path)[1].get("fingerprint")
        if fingerprint not in (None, "", self.generator.fingerprint) and not self.force:
            raise CheckpointError(
                f"{self.path}: saved with generator {fingerprint}, not with {self.generator.name!r} "
                f"({self.generator.fingerprint}); start from its own, or set force = true"
            )
        return GeneratorInputs.load(self.path)
