"""The metric of a generator: how strongly its pictures change with each latent and weight, averaged over its samples.

With r the coordinates of an image in which squared differences add up to the image distance (pixels and deep features),
and J its Jacobian at a random picture, the Gauss-Newton matrix is the mean of J^T J. Kept of it are one block a layer
for ws, one for a single w, and two Kronecker factors for each convolution (Martens and Grosse 2015 for the form).
Coordinates in which it is the identity are those in which a step of length 1 changes every picture alike.
B images, L = num_ws, C = w_dim; a weight [O,I,*k] has K = prod(k) numbers a pair of channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.checkpoints.model_files import Checkpoint
from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.schema import parse_json
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.files.text import to_run
from latentopt.protocols import Generator

FORMAT = "latentopt-metric-1"
PIXELS = "pixels"  # the distance without a network
LATENT = ("ws", "w", "slopes")  # the blocks that every metric has
LEFT, RIGHT = "left/", "right/"  # prefixes of a weight's two factors


@dataclass(frozen=True, eq=False)
class Roots:
    """Symmetric matrices [...,C,C] and their inverses: `A` makes of coordinates what they stand for."""

    forward: Tensor
    inverse: Tensor

    @staticmethod
    def of(matrix: Tensor, damping: float) -> Roots:
        """(M + damping I)^(-1/2) and its inverse, of positive semidefinite matrices [...,C,C]; computed in float64."""
        values, vectors = torch.linalg.eigh(matrix.double())
        values = (values.clamp(min=0) + damping).sqrt()
        return Roots(
            (vectors / values[..., None, :]) @ vectors.mT,
            (vectors * values[..., None, :]) @ vectors.mT,
        )

    def to(self, like: Tensor) -> Roots:
        return Roots(self.forward.to(like), self.inverse.to(like))


@dataclass(frozen=True, eq=False)
class Metric:
    """The metric of one generator and one image distance; float32 on the CPU.

    blocks       ws [L,C,C], mean g g^T of each row of ws; w [C,C], of their sum; slopes [C,C], mean s s^T with s the
                 slope of the mapping's last activation at w, for P-norm; and for each weight that was measured
                 left/<weight> [O,O], mean G G^T, and right/<weight> [I,I], mean G^T G, summed over the rest
    distance     the image distance that it was made for: `PerceptualFeatures.name` (and pixels), or `pixels` alone
    fingerprint  the generator
    n, seed      how many pictures were drawn, and from which seed

    Raises StatisticsError for values that cannot be such.
    """

    blocks: dict[str, Tensor]
    distance: str
    fingerprint: str
    n: int
    seed: int
    name: str = "generator"
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := [name for name in LATENT if name not in self.blocks]:
            raise StatisticsError(f"it lacks {', '.join(missing)}")
        values = {name: x.detach().to("cpu", torch.float32) for name, x in self.blocks.items()}
        for name, block in values.items():
            if block.ndim != 2 + (name == "ws") or block.shape[-1] != block.shape[-2]:
                raise StatisticsError(f"{name} is {list(block.shape)}, no square matrix")
            if not block.isfinite().all():
                raise StatisticsError(f"{name} holds values that are not finite")
            if (block.diagonal(dim1=-2, dim2=-1) < 0).any():
                raise StatisticsError(f"{name} is not positive semidefinite")
        object.__setattr__(self, "blocks", values)

    @property
    def weights(self) -> list[str]:
        """The weights that were measured."""
        return [name.removeprefix(LEFT) for name in self.blocks if name.startswith(LEFT)]

    def is_for(self, net: str, size: int) -> bool:
        """Whether the distance is that of a network, seeing images of that height; `none`: that of pixels alone."""
        return is_distance(self.distance, net, size)

    def roots(self, name: str, damping: float) -> Roots:
        """Of `ws` [L,C,C] or `w` [1,C,C], damped by that fraction of the mean eigenvalue of all layers."""
        return _damped(self.blocks[name].reshape(-1, *self.blocks[name].shape[-2:]), damping)

    def whitened_roots(self, name: str, axes: Tensor, damping: float) -> Roots:
        """The same in the coordinates of P-norm whose axes are the rows of `axes` [K,C] in P.

        The slope between P and w is taken as independent of the gradient there.
        """
        axes = axes.double().cpu()
        blocks = self.blocks[name].reshape(-1, *self.blocks[name].shape[-2:]) * self.blocks["slopes"]
        return _damped(axes @ blocks.double() @ axes.T, damping)

    def weight_roots(self, name: str, shape: tuple[int, ...], damping: float) -> tuple[Roots, Roots]:
        """P [O,O] and Q [I,I] of a weight: delta = P U Q has the identity as its metric, but for the damping.

        With t the trace of left, L / sqrt(t) and R / (sqrt(t) K) are the factors whose Kronecker product is the
        metric; each is damped by that fraction of its mean eigenvalue.
        """
        left, right = self.blocks[LEFT + name].double(), self.blocks[RIGHT + name].double()
        scale = left.trace().clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        return _damped(left / scale, damping), _damped(right / (scale * math.prod(shape[2:])), damping)

    def save(self, path: Path) -> None:
        """Write a safetensors file (the upper triangles; the rest as metadata), atomically."""
        fields = {"fingerprint": self.fingerprint, "distance": self.distance, "name": self.name}
        numbers = {"n": str(self.n), "seed": str(self.seed), "card": json.dumps(self.card)}
        packed = {name: pack(block) for name, block in self.blocks.items()}
        save_tensors(Path(path), packed, {"format": FORMAT, **fields, **numbers})

    @staticmethod
    def load(path: Path, generator: Generator | None = None) -> Metric:
        """Read what `save` wrote; with a generator given, another one's is refused.

        Raises StatisticsError, naming file and remedy.
        """
        path = Path(path)
        try:
            tensors, metadata = load_tensors(path)
        except CheckpointError as error:
            text = str(error).removeprefix(f"{path}: ")
            raise StatisticsError(f"{path}: not a usable metric: {text}") from error
        metric = parse_metric(tensors, metadata, str(path))
        if generator is not None:
            _check_fits(metric, path, generator)
        return metric


def is_distance(name: str, net: str, size: int) -> bool:
    """Whether the distance called `name` is that of a network, seeing images of that height; `none`: of pixels."""
    if net == "none":
        return name == PIXELS
    return name.startswith(f"{net} ") and name.endswith(f" at {size} pixels")


def _damped(blocks: Tensor, damping: float) -> Roots:
    """Roots of blocks [...,C,C], damped by a fraction of their mean eigenvalue; the identity where all are zero."""
    level = blocks.diagonal(dim1=-2, dim2=-1).double().mean().item()
    return Roots.of(blocks, damping * level) if level > 0 else Roots.of(torch.zeros_like(blocks), 1.0)


def pack(block: Tensor) -> Tensor:
    """The upper triangles of symmetric matrices [...,C,C], row by row: [...,C(C+1)/2]."""
    rows, columns = torch.triu_indices(block.shape[-1], block.shape[-1])
    return block[..., rows, columns]


def unpack(packed: Tensor) -> Tensor:
    """What `pack` was given. Raises ValueError for a length that no triangle has."""
    length = packed.shape[-1]
    size = (math.isqrt(8 * length + 1) - 1) // 2
    if size * (size + 1) // 2 != length:
        raise ValueError(f"{length} numbers are no triangle")
    rows, columns = torch.triu_indices(size, size)
    block = packed.new_empty(*packed.shape[:-1], size, size)
    block[..., rows, columns] = packed
    block[..., columns, rows] = packed
    return block


def parse_metric(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str) -> Metric:
    """A metric from the contents of its file. Raises StatisticsError, naming `path`, for damaged ones."""
    try:
        if metadata.get("format") != FORMAT:
            raise StatisticsError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        card = parse_json(metadata.get("card", "{}"), dict[str, Any])
        return Metric(
            {name: unpack(x) for name, x in tensors.items()},
            metadata["distance"],
            metadata["fingerprint"],
            int(metadata["n"]),
            int(metadata["seed"]),
            metadata.get("name", "generator"),
            card,
        )
    except (StatisticsError, KeyError, ValueError, IndexError) as error:
        text = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise StatisticsError(f"{path}: not a usable metric: {text}") from error


def _check_fits(metric: Metric, path: Path, generator: Generator) -> None:
    if metric.fingerprint != generator.fingerprint:
        raise StatisticsError(
            f"{path}: metric of generator {metric.name!r} ({metric.fingerprint}), not of {generator.name!r} "
            f"({generator.fingerprint}); run {to_run('fit-metric', generator.source)}"
        )
    wanted: dict[str, tuple[int, ...]] = {"ws": (generator.num_ws, generator.w_dim), "w": (generator.w_dim,)}
    for name in metric.weights:
        shape = generator.tunable.get(name)
        if shape is None:
            raise StatisticsError(f"{path}: metric of {name}, which {generator.name!r} does not have")
        wanted |= {LEFT + name: sides(shape)[:1], RIGHT + name: sides(shape)[1:2]}
    for name, expected in wanted.items():
        found = tuple(metric.blocks[name].shape[:-1]) if name in metric.blocks else None
        if found != expected:
            raise StatisticsError(f"{path}: {name} is of {found}; {generator.name!r} has {expected} there")


def sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """O, I and K of a weight of that shape; 1 where it has no such side."""
    return (*shape[:2], *(1,) * (2 - len(shape[:2])), math.prod(shape[2:]))  # type: ignore[return-value]


def describe_metric(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of such a file (see `latentopt.registry.FORMATS`)."""
    metric = parse_metric(checkpoint.contents, checkpoint.metadata, str(checkpoint.path))
    return {
        "kind": "metric: how strongly pictures change with latents and weights",
        "distance": metric.distance,
        "fingerprint": metric.fingerprint,
        "pictures": metric.n,
        "seed": metric.seed,
        "num_ws": len(metric.blocks["ws"]),
        "w_dim": metric.blocks["ws"].shape[-1],
        "weights": metric.weights,
        "card": metric.card,
        "use": "spaces with metric = true, for the generator with this fingerprint and this distance",
    }
