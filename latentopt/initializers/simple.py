"""Starts that need no encoder: the mean, the centre of P-norm space, random samples, a saved result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentopt.checkpoints.latent_files import check_made_with, read_latents
from latentopt.errors import CheckpointError, UsageError
from latentopt.pictures.resizing import shrink
from latentopt.protocols import Generator, Initializer, Operator
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.sampling import check_label, drawn_at_once, sample_w
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import phase

LISTED = 4  # names in a message


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
    """One random sample an image, from its seed; `psi` draws it towards the mean (1: not at all, 0: to the mean)."""

    examples = ({}, {"psi": 0.5})

    def __init__(self, generator: Generator, *, label: int = 0, psi: float = 1.0) -> None:
        check_label(generator, label)
        self.generator, self.label, self.psi = generator, label, psi

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        w = torch.cat([sample_w(self.generator, seed, 1, self.label) for seed in seeds])
        return GeneratorInputs(self.generator.truncate(w, self.psi).clone())


class BestOf(Initializer):
    """The nearest of `n` random samples, compared at `size` pixels (PULSE's downscaling loss, Menon et al. 2020).

    Where only a measurement is known, the samples' measurements are compared with it.
    """

    examples = ({"n": 6, "batch": 4},)

    def __init__(self, generator: Generator, *, n: int = 64, size: int = 32, label: int = 0, batch: int = 32) -> None:
        for name, value in (("n", n), ("size", size), ("batch", batch)):
            if value < 1:
                raise UsageError(f"best-of: {name} must be at least 1, not {value}")
        check_label(generator, label)
        self.generator, self.n, self.size, self.label, self.batch = generator, n, size, label, batch

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self._nearest(shrink(target, self.size), lambda image, row: shrink(image, self.size), seeds)

    def of_measurement(
        self, measured: Tensor, operator: Operator, picture: Tensor, seeds: Sequence[int]
    ) -> GeneratorInputs:
        def seen(image: Tensor, row: int) -> Tensor:
            one = operator.index(torch.tensor([row], device=image.device))
            return torch.cat([one(x[None]) for x in image])

        return self._nearest(measured, seen, seeds)

    @torch.no_grad()
    def _nearest(self, wanted: Tensor, seen: Callable[[Tensor, int], Tensor], seeds: Sequence[int]) -> GeneratorInputs:
        """wanted [B,...]; seen: what images [n,C,H,W] have that is compared with its rows."""
        best = []
        with phase("looking for a start", self.n * len(wanted), "samples") as advance:
            for row, seed in enumerate(seeds):
                w = sample_w(self.generator, seed, self.n, self.label)  # [n,C]
                distances = []
                for part in w.split(drawn_at_once(self.generator, self.batch)):
                    drawn = self.generator.synthesis(GeneratorInputs(self.generator.broadcast(part)))
                    distances.append((seen(drawn, row) - wanted[row]).square().flatten(1).mean(dim=1))
                    advance(len(part))
                best.append(w[torch.cat(distances).argmin()])
        return GeneratorInputs(self.generator.broadcast(torch.stack(best)).clone())


class File(Initializer):
    """One image's latents from a file, for every image: ours or another tool's (`latentopt.checkpoints.latent_files`).

    `path` is the file, or a result's folder. `entry` chooses one of several by its name or number (from 0).
    What was saved with another generator is refused, unless `force`.
    """

    reads = {"path": "inputs"}
    examples = ({"path": "start.safetensors"},)

    def __init__(self, generator: Generator, *, path: str, entry: str | int | None = None, force: bool = False) -> None:
        self.generator, self.entry, self.force = generator, entry, force
        self.path = Path(path) / "inputs.safetensors" if Path(path).is_dir() else Path(path)

    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        return self._read().to(target.device).index([0] * len(target))

    def _read(self) -> GeneratorInputs:
        held = read_latents(self.path, self.generator, None if self.force else self._check)
        names = [name for name, _ in held.images]
        if self.entry is None and len(names) == 1:
            return held.images[0][1]
        keys: list[str | int] = [*range(len(names)), *names]
        if self.entry is None or self.entry not in keys:
            known = ", ".join(dict.fromkeys(filter(None, names[:LISTED]))) or f"0 to {len(names) - 1}"
            asked = f"none of them is {self.entry!r}" if self.entry is not None else "a start is one of them"
            raise CheckpointError(
                f"{self.path}: holds {len(names)} latents ({known}{', ...' * (len(names) > LISTED)}); {asked}: "
                f"--init '{{name = \"file\", path = {json.dumps(str(self.path))}, entry = 0}}' takes the first"
            )
        return held.images[keys.index(self.entry) % len(names)][1]

    def _check(self, made_for: Mapping[str, str]) -> None:
        forced = f", or force it: --init '{{name = \"file\", path = {json.dumps(str(self.path))}, force = true}}'"
        check_made_with(str(self.path), made_for, self.generator, forced)
