"""How fast StyleGAN3's operators are, and how equivariant the nets are with and without the filters.

The naive operators insert zeros and filter at the full rate (`latentopt.generators.ops.upfirdn`), as the paper has it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from stylegan3_nets import official_net, reference_net
from tables import markdown_table
from torch import Tensor

from latentopt.generators.ops import SQRT2, upfirdn
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.generators.stylegan3_layer import SynthesisLayer3
from latentopt.geometry.moves import inverse_move, move_matrix
from latentopt.types import GeneratorInputs

Activation = Callable[[Tensor, float, float | None], Tensor]
LOBES = 5  # of the windowed sinc that moves pictures
PEAK = 2.0  # of the paper's decibels: from -1 to 1


def naive(layer: SynthesisLayer3) -> Activation:
    g = layer.geometry
    one = torch.ones(1, 1)
    up_filter, down_filter = (getattr(layer, name, one) for name in ("up_filter", "down_filter"))

    def call(x: Tensor, slope: float, clamp: float | None) -> Tensor:
        x = upfirdn(x, up_filter, up=g.up, pad=(*g.pad, *g.pad), gain=g.up**2)
        x = F.leaky_relu(x, slope) * (1.0 if g.is_torgb else SQRT2)
        x = x if clamp is None else x.clamp(-clamp, clamp)
        return upfirdn(x, down_filter, down=g.down)

    return call


def unfiltered(layer: SynthesisLayer3) -> Activation:
    """The leaky ReLU at the rate of what comes in, its new frequencies not filtered away; the filters change the rate
    alone.
    """

    def call(x: Tensor, slope: float, clamp: float | None) -> Tensor:
        gain = 1.0 if layer.geometry.is_torgb else SQRT2
        x = F.leaky_relu(x, slope) * gain
        return SynthesisLayer3.filters(layer, x)(x / gain, 1.0, clamp)

    return call


def _other(call: Activation, x: Tensor) -> Activation:
    return call


@contextmanager
def with_activation(generator: StyleGAN3, made: Callable[[SynthesisLayer3], Activation] | None) -> Iterator[None]:
    """Every layer's activation is another meanwhile."""
    layers = generator.synthesis.layers.values() if made is not None else ()
    for layer in layers:
        layer.filters = partial(_other, made(layer))  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.filters


# Equivariance ------------------------------------------------------------------------------------------------------


def moved_by_sinc(image: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
    """Square pictures [B,C,n,n] after `move` [B,3,3] by a Lanczos window, and which pixels [B,n,n] it knows wholly."""
    n = image.shape[2]
    centres = (torch.arange(n) + 0.5) / n - 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten(), torch.ones(n * n)])  # [3,n*n]
    source = (inverse_move(move)[:, :2] @ points + 0.5) * n - 0.5  # [B,2,n*n], in pixels
    distance = source[..., None] - torch.arange(n)  # [B,2,n*n,n]
    weights = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    moved = torch.einsum("bpj,bcij,bpi->bcp", weights[:, 0], image, weights[:, 1]).unflatten(2, (n, n))
    known = ((source >= LOBES - 1) & (source <= n - LOBES)).all(dim=1).unflatten(1, (n, n))
    return moved, known


def random_moves(kind: str, count: int, n: int) -> Tensor:
    """EQ-T: shifts by up to an eighth of the width, whole pixels of it; EQ-T_frac: of any length; EQ-R: any angle."""
    rng = torch.Generator().manual_seed(3)
    shift = (torch.rand(count, 2, generator=rng) * 2 - 1) / 8
    angle = (torch.rand(count, generator=rng) * 2 - 1) * math.pi
    if kind == "EQ-R":
        return move_matrix(angle, torch.zeros(count, 2))
    return move_matrix(torch.zeros(count), (shift * n).round() / n if kind == "EQ-T" else shift)


@torch.no_grad()
def decibels(generator: StyleGAN3, kind: str, count: int = 32) -> float:
    """How well the move of the picture that the network draws is the picture moved (Karras et al. 2021, appendix E)."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(4))
    inputs = GeneratorInputs(generator.broadcast(generator.mapping(z)))
    moves = random_moves(kind, count, generator.resolution[0])
    expected, known = moved_by_sinc(generator.synthesis(inputs), moves)
    drawn = generator.synthesis(inputs.replace(transform=moves))
    error = (drawn - expected).square().mean(dim=1)[known].mean().item()
    return 10 * math.log10(PEAK**2 / error)


def equivariance() -> str:
    kinds = ("EQ-T", "EQ-T_frac", "EQ-R")
    rows = []
    for net in ("T", "R"):
        generator = reference_net(net)
        for name, made in (("as it is", None), ("leaky ReLU not filtered", unfiltered)):
            with with_activation(generator, made):
                rows.append([net, name, *(f"{decibels(generator, kind):.1f}" for kind in kinds)])
    return markdown_table(["net (32 pixels)", "activation", *(f"{kind}, dB" for kind in kinds)], rows)


# Speed -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    seconds: float
    image: Tensor
    gradient: Tensor | None


def timed(generator: StyleGAN3, ws: Tensor, gradient: bool, repeats: int) -> Timed:
    """The fastest of some runs, in CPU seconds of one thread."""
    best = math.inf
    for _ in range(repeats):
        w = ws.clone().requires_grad_(gradient)
        started = time.process_time()
        with torch.set_grad_enabled(gradient):
            image = generator.synthesis(GeneratorInputs(w))
        found = torch.autograd.grad(image.square().sum(), w)[0] if gradient else None
        best = min(best, time.process_time() - started)
    return Timed(best, image.detach(), found)


def work(generator: StyleGAN3) -> tuple[float, float]:
    """Multiplications and additions of one image, in 10^9: of the convolutions, and of the products with filters."""
    convolutions = filters = 0.0
    for layer in generator.synthesis.layers.values():
        g = layer.geometry
        side = g.in_size + g.kernel - 1
        convolutions += 2 * g.out_channels * g.in_channels * g.kernel**2 * side**2
        made = layer.filters(torch.empty(1, 1, side, side))
        rows = (side, made.up[0].length if made.up else 0)
        for axis, count in zip(made.up or (), rows, strict=False):
            filters += 2 * g.out_channels * count * axis.blocks * axis.matrix.numel()
        for axis, count in zip(made.down or (), (g.between_size, g.out_size), strict=False):
            filters += 2 * g.out_channels * count * axis.blocks * axis.matrix.numel()
    return convolutions / 1e9, filters / 1e9


def peak() -> float:
    """10^9 operations a second of one thread in a large product of matrices: the limit."""
    a = torch.randn(1024, 1024)
    best = math.inf
    for _ in range(5):
        started = time.process_time()
        a @ a
        best = min(best, time.process_time() - started)
    return 2 * 1024**3 / best / 1e9


def error(a: Tensor | None, b: Tensor | None) -> float:
    return math.nan if a is None or b is None else ((a - b).abs().max() / b.abs().max()).item()


def speed(size: int, channel_base: int) -> str:
    limit = peak()
    nets = {f"{kind} 32": (reference_net(kind), True, 5) for kind in ("T", "R")}
    if size:
        nets |= {f"{kind} {size}": (official_net(kind, size, channel_base), False, 1) for kind in ("T", "R")}
    rows = []
    for name, (generator, gradient, repeats) in nets.items():
        z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(5))
        ws = generator.broadcast(generator.mapping(z))
        convolutions, filters = work(generator)
        fast = timed(generator, ws, gradient, repeats)
        with with_activation(generator, naive):
            slow = timed(generator, ws, gradient, repeats)
        passes = "forward and backward" if gradient else "forward"
        lower = (convolutions + filters) * (2 if gradient else 1) / limit
        differences = f"{error(fast.image, slow.image):.1e}"
        differences += f", {error(fast.gradient, slow.gradient):.1e}" if gradient else ""
        factor = f"{slow.seconds / fast.seconds:.1f}"
        rows.append([name, passes, slow.seconds, fast.seconds, factor, convolutions, filters, lower, differences])
    columns = ["net", "passes", "naive, s", "here, s", "times faster", "convolutions, GFLOP", "filters, GFLOP"]
    columns += ["limit, s", "difference of image, gradient"]
    about = f"""One image, one thread, CPU seconds, the fastest of the runs. The limit is the work (twice for a
gradient with respect to ws alone) at {limit:.0f} GFLOP/s, which a product of 1024 x 1024 matrices reaches here.
Official sizes have channel base {channel_base}, R's doubled."""
    return about + "\n\n" + markdown_table(columns, rows)
