"""Deltas: what tuning added to a generator's weights, as a small file that can be scaled, summed and baked in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.checkpoints.delta_files import (
    FORMAT,
    Factors,
    Shape,
    adopted,
    check_fit,
    check_origin,
    delta_path,
    expand,
    read_delta,
)
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.storage import save_tensors, to_json
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

RANK_TOLERANCE = 1e-6  # relative error below which `compact` holds a weight as factors

Part = tuple[str, float]


@dataclass(frozen=True, eq=False)
class Delta:
    """Added to a generator's weights: `weight + tensors[weight]`.

    tensors {weight: [*shape]}, names as in `generator.tunable`, held as float32 on the CPU; fingerprint and name of the
    generator; about: how the delta came to be (method, recipe, ...), plain data.
    factors {weight: (up [O,r], down [r,I*k*k])}: the low-rank form of some of `tensors`, which the file holds in their
    place. parts: (sha256, strength) of the files that this is the weighted sum of; empty for a delta on its own.
    Raises CheckpointError for no tensors and for values that are not finite.
    """

    tensors: dict[str, Tensor]
    fingerprint: str
    name: str = "generator"
    about: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.tensors:
            raise CheckpointError("a delta needs at least one weight")
        tensors = {name: _plain(x) for name, x in self.tensors.items()}
        if broken := [name for name, x in tensors.items() if not x.isfinite().all()]:
            raise CheckpointError(f"{len(broken)} weights of a delta are not finite: {', '.join(broken[:5])}")
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "factors", {k: (_plain(u), _plain(v)) for k, (u, v) in self.factors.items()})
        object.__setattr__(self, "parts", self.parts or ((self._sha256(), 1.0),))

    @staticmethod
    def of(inputs: GeneratorInputs, generator: Generator, row: int = 0, **about: object) -> Delta:
        """The delta of image `row` of inputs made for `generator`; raises ValueError where they have none."""
        if not inputs.deltas:
            raise ValueError("these inputs change no weights")
        tensors = {name: x[row if x.shape[0] > 1 else 0] for name, x in inputs.deltas.items()}
        check_fit({name: tuple(x.shape) for name, x in tensors.items()}, generator, "inputs")
        return Delta(tensors, generator.fingerprint, generator.name, about)

    def compact(self, rank: int) -> Delta:
        """The same delta, weights of at most that rank held as factors [O,r], [r,n]: what a low-rank tuning found.

        up: the leading eigenvectors of D D^T (float64), down = up^T D. Weights that this does not give back within 1e-6
        of their norm, or that would not become smaller, stay as they are.
        """
        factors = {name: pair for name, x in self.tensors.items() if (pair := _factor(x, rank))}
        products = {name: (up @ down).reshape(self.tensors[name].shape) for name, (up, down) in factors.items()}
        return Delta(self.tensors | products, self.fingerprint, self.name, self.about, factors)

    def save(self, path: Path) -> None:
        """Write a `latentopt-delta-1` safetensors file, atomically."""
        tensors = {name: x for name, x in self.tensors.items() if name not in self.factors}
        for name, (up, down) in self.factors.items():
            tensors |= {f"{name}/up": up, f"{name}/down": down}
        metadata = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "name": self.name,
            "about": to_json(self.about),
            "shapes": json.dumps({name: list(self.tensors[name].shape) for name in self.factors}),
        }
        save_tensors(Path(path), tensors, metadata)

    @staticmethod
    def load(path: Path, generator: Generator | None = None, force: bool = False) -> Delta:
        """Read what `save` wrote; `path` may be a result folder.

        Raises CheckpointError, naming the file, for a damaged one, for weights that `generator` lacks and, without
        `force`, for a delta of another generator. Where `force` was needed, `about["forced"]` says whose delta it was.
        """
        path = delta_path(path)
        stored = read_delta(path)
        if generator is not None:
            stored = adopted(stored, generator, str(path), force)
        tensors = expand(stored, str(path))
        return Delta(tensors, stored.fingerprint, stored.name, stored.about, stored.factors)

    def deltas(self) -> dict[str, Tensor]:
        """For `GeneratorInputs.deltas`: {weight: [1,*shape]}, shared by all images."""
        return {name: x[None] for name, x in self.tensors.items()}

    def scaled(self, strength: float) -> Delta:
        """`strength` times this delta; any finite number. Raises UsageError."""
        if not math.isfinite(strength) or abs(strength) > torch.finfo(torch.float32).max:
            raise UsageError(f"the strength of a delta must be a finite number, not {strength}")
        tensors = {name: x * strength for name, x in self.tensors.items()}
        factors = {name: (up * strength, down) for name, (up, down) in self.factors.items()}
        parts = tuple((sha256, strength * own) for sha256, own in self.parts)
        return replace(self, tensors=tensors, factors=factors, parts=parts)

    @staticmethod
    def compose(deltas: Sequence[Delta]) -> Delta:
        """Their sum; ranks add up. Raises CheckpointError for deltas of different generators, ValueError for none."""
        first, *others = deltas
        for other in others:
            if other.fingerprint != first.fingerprint:
                raise CheckpointError(
                    f"deltas of two generators cannot be added: {first.name!r} ({first.fingerprint}) and "
                    f"{other.name!r} ({other.fingerprint}); take deltas of one"
                )
        if not others:
            return first
        tensors: dict[str, Tensor] = {}
        for delta in deltas:
            for name, x in delta.tensors.items():
                if name in tensors and tensors[name].shape != x.shape:
                    shapes = f"{list(tensors[name].shape)} and {list(x.shape)}"
                    raise CheckpointError(f"{name}: deltas of shapes {shapes} cannot be added")
                tensors[name] = tensors[name] + x if name in tensors else x
        factors = {name: pair for name in tensors if (pair := _joined(name, deltas))}
        about = {"composed": [delta.about for delta in deltas]}
        parts = tuple(part for delta in deltas for part in delta.parts)
        return Delta(tensors, first.fingerprint, first.name, about, factors, parts)

    def check(self, generator: Generator) -> None:
        """Raise CheckpointError where this is no delta of `generator`."""
        check_origin(self.fingerprint, self.name, generator, "delta")
        check_fit(self.shapes, generator, "delta")

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(x.shape) for name, x in self.tensors.items()}

    def bake(self, generator: Generator) -> Generator:
        """A new generator, float32, whose weights are those of `generator` plus this delta.

        Its fingerprint is its own; `card["baked"]` lists what was put in: sha256 of each delta's contents, its
        strength, and the fingerprint of the generator it was added to. Raises CheckpointError for another generator's
        delta.
        """
        self.check(generator)
        entries = [{"sha256": sha, "strength": own, "base": generator.fingerprint} for sha, own in self.parts]
        return _added(generator, self.tensors, [*_baked(generator), *entries])

    def unbake(self, generator: Generator) -> Generator:
        """Take back out what `bake` put in: the base within rounding (1e-6 of the larger of weight and delta).

        Raises CheckpointError unless the card of `generator` lists exactly this delta at this strength.
        """
        entries = _baked(generator)
        for sha256, strength in self.parts:
            known = [i for i, e in enumerate(entries) if (e.get("sha256"), e.get("strength")) == (sha256, strength)]
            if not known:
                held = "; ".join(f"{str(e.get('sha256'))[:12]} at {e.get('strength')}" for e in entries) or "none"
                raise CheckpointError(
                    f"{generator.source}: delta {sha256[:12]} was not baked into it at strength {strength:g} (its card "
                    f"lists: {held}); name the delta and strength that it was converted with"
                )
            entries.pop(known[-1])
        check_fit(self.shapes, generator, "delta")
        return _added(generator, {name: -x for name, x in self.tensors.items()}, entries)

    def _sha256(self) -> str:
        """Of the contents as the file holds them, whichever generator they are for."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            for x in self.factors.get(name, (self.tensors[name],)):
                digest.update(f"{name}{tuple(x.shape)}".encode())
                digest.update(x.numpy().tobytes())
        return digest.hexdigest()


def load_deltas(
    paths: Iterable[Path], generator: Generator | None, strength: float = 1.0, force: bool = False
) -> Delta:
    """`strength` times the sum of the deltas in `paths`, files or result folders. Raises as Delta.load and its kin."""
    return Delta.compose([Delta.load(path, generator, force) for path in paths]).scaled(strength)


def _plain(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float32).contiguous()


def _factor(x: Tensor, rank: int) -> Factors | None:
    matrix = x.flatten(1).double() if x.ndim > 1 else None  # [O,n]
    if matrix is None or rank * sum(matrix.shape) >= matrix.numel():
        return None
    up = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -rank:]  # [O,r]
    up, down = up.float(), (up.T @ matrix).float()
    if torch.linalg.norm((up @ down).double() - matrix) > RANK_TOLERANCE * torch.linalg.norm(matrix):
        return None
    return up, down


def _joined(name: str, deltas: Sequence[Delta]) -> Factors | None:
    """Factors of the sum, [O,r+s] and [r+s,n]; None where one delta has none or the sum is no smaller."""
    held = [delta for delta in deltas if name in delta.tensors]
    if not all(name in delta.factors for delta in held):
        return None
    up = torch.cat([delta.factors[name][0] for delta in held], dim=1)
    down = torch.cat([delta.factors[name][1] for delta in held])
    return (up, down) if up.numel() + down.numel() < held[0].tensors[name].numel() else None


def _baked(generator: Generator) -> list[dict[str, Any]]:
    entries = generator.card.get("baked")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _added(generator: Generator, tensors: Mapping[str, Tensor], baked: list[dict[str, Any]]) -> Generator:
    """A float32 copy of `generator` with `tensors` added to its weights and that list in its card."""
    new = generator.with_weights(tensors)
    new.card = {key: value for key, value in generator.card.items() if key != "baked"} | (
        {"baked": baked} if baked else {}
    )
    return new
