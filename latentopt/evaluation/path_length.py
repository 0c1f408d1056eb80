"""Perceptual path length (Karras et al. 2019, 4.1; 2020, appendix) around embeddings (Zhu et al. 2020, 4.4.3).

Distances of pictures that are not rounded to 8 bits: a step of 1e-4 would vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from latentopt.evaluation.measure import measure_ratio
from latentopt.evaluation.rendering import BATCH, Drawn, as_they_are
from latentopt.evaluation.subject import Found, Subject
from latentopt.protocols import Generator
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import counted as drawing

Distance = Callable[[Tensor, Tensor], Tensor]
Sampling = Literal["full", "end"]

EPSILON = 1e-4  # of StyleGAN and StyleGAN2; II2S names none
DISCARD = 0.01  # on either side, as StyleGAN does
KINDS: tuple[tuple[str, Sampling, bool], ...] = (
    ("path_length_end", "end", False),
    ("path_length_full", "full", False),
    ("path_length_end_all", "end", True),
    ("path_length_full_all", "full", True),
)


@torch.no_grad()
def path_lengths(
    generator: Generator,
    inputs: GeneratorInputs,
    distance: Distance,
    *,
    n: int,
    sampling: Sampling = "end",
    each_layer: bool = False,
    epsilon: float = EPSILON,
    seed: int = 0,
    noise_mode: str = "const",
    redraw: Drawn = as_they_are,
) -> Tensor:
    """d(G(lerp(ws, w', t)), G(lerp(ws, w', t + epsilon))) / epsilon^2 of one image's ws and n samples w': [n].

    sampling: t = 0 ("end": at the embedding) or uniform in [0,1] ("full"). each_layer: another w' for each row of ws,
    "Random all" in II2S's Table 3; else one for all, "Random".
    """
    ends = sample_w(generator, seed, n * generator.num_ws if each_layer else n)
    ends = ends.unflatten(0, (n, -1)) if each_layer else generator.broadcast(ends)  # [n,L,C]
    draw = _drawing(generator, inputs, noise_mode, redraw)
    return _lengths(inputs.ws.expand_as(ends), ends, draw, distance, sampling, epsilon, seed)


@torch.no_grad()
def layer_path_lengths(
    generator: Generator,
    inputs: GeneratorInputs,
    distance: Distance,
    *,
    epsilon: float = EPSILON,
    seed: int = 0,
    noise_mode: str = "const",
    redraw: Drawn = as_they_are,
) -> Tensor:
    """The same at one image's ws when a single row moves, towards one sample: [L], by row."""
    rows = torch.eye(generator.num_ws, dtype=torch.bool, device=inputs.ws.device)[..., None]  # [L,L,1]
    start = inputs.ws.expand(generator.num_ws, -1, -1)
    ends = torch.where(rows, sample_w(generator, seed, 1), start)
    return _lengths(start, ends, _drawing(generator, inputs, noise_mode, redraw), distance, "end", epsilon, seed)


def _drawing(
    generator: Generator, inputs: GeneratorInputs, noise_mode: str, redraw: Drawn = as_they_are
) -> Callable[[Tensor], Tensor]:
    return lambda ws: generator.synthesis(redraw(inputs.with_latents(ws)), noise_mode).float()


@torch.no_grad()
def generator_path_lengths(
    generator: Generator,
    distance: Distance,
    *,
    n: int,
    space: Literal["z", "w"] = "z",
    sampling: Sampling = "full",
    epsilon: float = EPSILON,
    seed: int = 0,
) -> Tensor:
    """Path lengths [n] between the generator's own samples: spherical in Z, straight in W."""
    if space == "w":
        start, end = generator.broadcast(sample_w(generator, seed, 2 * n)).chunk(2)
        draw = _drawing(generator, GeneratorInputs(start[:1]), "const")
        return _lengths(start, end, draw, distance, sampling, epsilon, seed)

    def draw_z(z: Tensor) -> Tensor:
        c = torch.eye(generator.c_dim, device=z.device)[:1].expand(len(z), -1) if generator.c_dim else None
        return generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z, c)))).float()

    z = torch.randn(2 * n, generator.z_dim, generator=torch.Generator().manual_seed(seed)).to(generator.device)
    start, end = z.chunk(2)
    return _lengths(start, end, draw_z, distance, sampling, epsilon, seed, slerp)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """On the unit sphere from a [n,Z] to b by t [n,1], as StyleGAN's path length: both are normalised first."""
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(dim=-1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    across = b - cosine * a
    across = across / across.norm(dim=-1, keepdim=True)
    found = a * angle.cos() + across * angle.sin()
    return found / found.norm(dim=-1, keepdim=True)


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return a + (b - a) * t.reshape(-1, *[1] * (a.ndim - 1))


def _lengths(
    start: Tensor,
    end: Tensor,
    draw: Callable[[Tensor], Tensor],
    distance: Distance,
    sampling: Sampling,
    epsilon: float,
    seed: int,
    between: Callable[[Tensor, Tensor, Tensor], Tensor] = lerp,
) -> Tensor:
    t = torch.rand(len(start), 1, generator=torch.Generator().manual_seed(seed + 1)).to(start)
    t = t if sampling == "full" else torch.zeros_like(t)
    found = []
    batches = list(zip(start.split(BATCH), end.split(BATCH), t.split(BATCH), strict=True))
    for a, b, s in drawing(batches, "measuring path lengths", "batches"):
        drawn = draw(torch.cat([between(a, b, s), between(a, b, s + epsilon)]))
        found.append(distance(*drawn.chunk(2)) / epsilon**2)
    return torch.cat(found).cpu().double()


def kept(lengths: Tensor) -> Tensor:
    """Which of all lengths, of any shape, are not among the lowest or the highest 1 %, as StyleGAN has it."""
    values = lengths.flatten().numpy()
    low = np.percentile(values, 100 * DISCARD, method="lower")
    high = np.percentile(values, 100 * (1 - DISCARD), method="higher")
    return (lengths >= low) & (lengths <= high)


def trimmed_mean(lengths: Tensor) -> Tensor:
    """The mean without the lowest and the highest 1 %."""
    return lengths[kept(lengths)].mean()


def paths(subject: Subject) -> Found:
    """Table 3: path lengths around the embeddings, from each towards samples; for reference the same around samples.

    In II2S a short path is bad: pictures of latents far off change less with the same step. Hence `better` is "higher",
    as far as the samples' own length.
    """
    name, distance = next(iter(subject.distances.items()))
    generator, n = subject.generator, subject.amounts.paths
    found = Found(rows=[{} for _ in subject.inputs])
    lengths: dict[str, dict[str, Any]] = {}
    found.curves["path_length"] = lengths
    references = [GeneratorInputs(ws) for ws in subject.samples[: max(8, len(subject.inputs))].split(1)]
    for kind, sampling, each_layer in KINDS:
        around = partial(path_lengths, generator, distance=distance, n=n, sampling=sampling, each_layer=each_layer)
        own = torch.stack(
            [
                around(x, seed=subject.seed + i, noise_mode=subject.noise_mode(i), redraw=subject.redraws[i])
                for i, x in enumerate(subject.inputs)
            ]
        )  # [N,n]
        samples = torch.stack([around(x, seed=subject.seed + i) for i, x in enumerate(references)])
        counted = kept(own).double()  # [N,n]
        found.measures.append(
            measure_ratio(
                kind,
                (own * counted).sum(dim=1),
                counted.sum(dim=1),
                extractor=f"{name}: {distance.name}",
                better="higher",
                seed=subject.seed,
            )
        )
        lengths[kind] = {"embeddings": trimmed_mean(own).item(), "samples": trimmed_mean(samples).item()}
        for row, values in zip(found.rows, own, strict=True):
            row[kind] = values.mean().item()
    both: tuple[Sampling, ...] = ("full", "end")
    for sampling in both:
        z = generator_path_lengths(generator, distance, n=subject.amounts.samples, sampling=sampling, seed=subject.seed)
        lengths[f"z_{sampling}"] = {"samples": trimmed_mean(z).item()}
    by_layer = [
        layer_path_lengths(
            generator,
            x,
            distance,
            seed=subject.seed + i,
            noise_mode=subject.noise_mode(i),
            redraw=subject.redraws[i],
        )
        for i, x in enumerate(subject.inputs)
    ]
    lengths["by_layer"] = {"embeddings": [trimmed_mean(row).item() for row in torch.stack(by_layer, dim=1)]}
    return found
