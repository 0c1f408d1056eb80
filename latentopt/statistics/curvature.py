"""How strongly a generator's pictures depend on each of its weights: the diagonal of the Gauss-Newton matrix.

h_i = E_w sum_k (df_k/dtheta_i)^2, with f the picture (or deep features of it) at random w, is estimated with random
signs v on the outputs: h_i = E_w E_v (J^T v)_i^2, J the Jacobian of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.perceptual.features import PerceptualFeatures
from latentopt.protocols import Generator
from latentopt.statistics.streams import stream
from latentopt.types import GeneratorInputs

FEATURES = ("image", "perceptual")

Outputs = Callable[[Tensor], list[Tensor]]
"""image [B,3,H,W] -> tensors [B,...] whose squared differences add up to the measure of change."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of a fit: those of picture i depend on the seed, the purpose and i, on no batch."""

    generator: Generator
    seed: int
    purpose: int

    def ws(self, indices: range) -> tuple[Tensor, list[torch.Generator]]:
        """ws [B,L,C] from z ~ N(0,1) and labels drawn uniformly; and each picture's stream, for what else it needs."""
        streams = self._streams(indices)
        return self.generator.broadcast(self._w(streams)), streams

    def mixed_ws(self, indices: range) -> tuple[Tensor, list[torch.Generator]]:
        """The same, of two w each: the rows above a cut, drawn uniformly from 0 to L, take the first (style mixing)."""
        streams, num_ws = self._streams(indices), self.generator.num_ws
        first, second = (self.generator.broadcast(self._w(streams)) for _ in range(2))
        cuts = torch.cat([torch.randint(num_ws + 1, (1,), generator=rng) for rng in streams])
        above = torch.arange(num_ws) < cuts[:, None]  # [B,L]
        return torch.where(above[..., None].to(first.device), first, second), streams

    def _streams(self, indices: range) -> list[torch.Generator]:
        return [stream(self.seed, self.purpose, i) for i in indices]

    def _w(self, streams: list[torch.Generator]) -> Tensor:
        generator, dtype = self.generator, self.generator.w_avg.dtype
        z = torch.stack([torch.randn(generator.z_dim, generator=rng) for rng in streams])
        c = None
        if generator.c_dim:
            labels = torch.cat([torch.randint(generator.c_dim, (1,), generator=rng) for rng in streams])
            c = F.one_hot(labels, generator.c_dim).to(generator.device, dtype)
        with torch.no_grad():
            return generator.mapping(z.to(generator.device, dtype), c)


def sampled_gradients(
    generator: Generator,
    names: tuple[str, ...],
    outputs: Outputs,
    ws: Tensor,
    streams: list[torch.Generator],
    probes: int = 1,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """J^T v for random signs v on the outputs of every picture, `probes` times: by ws, [B,L,C], and by each weight,
    [B,*shape].

    Each picture has weight deltas of its own, all zero: one backward pass gives every picture's own gradient.
    """
    ws = ws.detach().requires_grad_()
    deltas = {name: ws.new_zeros(len(ws), *generator.tunable[name]).requires_grad_() for name in names}
    leaves = [ws, *deltas.values()]
    with torch.enable_grad():
        drawn = outputs(generator.synthesis(GeneratorInputs(ws, deltas=deltas or None)))
    for probe in range(probes):
        signs = [random_signs(x, streams) for x in drawn]
        by_ws, *by_weight = torch.autograd.grad(
            drawn, leaves, signs, retain_graph=probe + 1 < probes, materialize_grads=True
        )
        yield by_ws, dict(zip(names, by_weight, strict=True))


def squared_gradients(
    generator: Generator,
    names: tuple[str, ...],
    outputs: Outputs,
    *,
    samples: int,
    probes: int,
    seed: int = 0,
    batch: int = 4,
    on_progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """h from the even and from the odd samples: {weight: [*shape]}, float64 on the CPU.

    Every picture's own gradient is squared before they are added.
    """
    draws = Draws(generator, seed, purpose=0)
    halves = tuple(
        {name: torch.zeros(generator.tunable[name], dtype=torch.float64) for name in names} for _ in range(2)
    )
    for indices in batches(samples, batch):
        ws, streams = draws.ws(indices)
        for _, gradients in sampled_gradients(generator, names, outputs, ws, streams, probes):
            for name, gradient in gradients.items():
                for half in range(2):
                    rows = gradient[(half - indices.start) % 2 :: 2]
                    halves[half][name] += rows.square().sum(dim=0).cpu()
        if on_progress is not None:
            on_progress(len(indices))
    even, odd = halves
    return (
        {name: h / (probes * ((samples + 1) // 2)) for name, h in even.items()},
        {name: h / (probes * (samples // 2)) for name, h in odd.items()},
    )


def random_signs(x: Tensor, streams: list[torch.Generator]) -> Tensor:
    """+1 or -1 of the shape of `x` [B,...], each row from its own stream."""
    bits = torch.stack([torch.randint(2, x.shape[1:], generator=rng, dtype=torch.int8) for rng in streams])
    return bits.to(x.device, x.dtype) * 2 - 1


def outputs_of(generator: Generator, features: str) -> tuple[Outputs, str]:
    """What h is measured in, scaled so that squared differences add up to the mean square change of a pixel, or to the
    perceptual distance; and the network behind it ("" for pixels).
    """
    if features == "image":
        return lambda image: [image / math.sqrt(image[0].numel())], ""
    perceptual = PerceptualFeatures(generator, memory_format=torch.contiguous_format)
    return perceptual.coordinates, perceptual.network


def batches(count: int, batch: int) -> Iterator[range]:
    """0 to `count` in ranges of `batch`."""
    for start in range(0, count, batch):
        yield range(start, min(start + batch, count))
