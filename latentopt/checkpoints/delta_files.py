"""Delta files (`latentopt-delta-1`): read and checked, against a generator too, before anything is expanded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.checkpoints.model_files import Checkpoint
from latentopt.errors import CheckpointError
from latentopt.files.schema import parse_json
from latentopt.files.storage import load_tensors
from latentopt.pictures.images import DELTA_FILE
from latentopt.protocols import Generator
from latentopt.registry import nearest

FORMAT = "latentopt-delta-1"
MAX_VALUES = 1 << 28  # after expansion, ten times the largest StyleGAN2: small factors can claim any amount of memory

Shape = tuple[int, ...]
Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StoredDelta:
    """The contents of a delta file.

    tensors {weight: [*shape]}; factors {weight: (up [O,r], down [r,I*k*k])} of the other weights; shapes of all
    weights; fingerprint and name of the generator; about: how the delta came to be.
    """

    tensors: dict[str, Tensor]
    factors: dict[str, Factors]
    shapes: dict[str, Shape]
    fingerprint: str
    name: str
    about: dict[str, Any]

    @property
    def values(self) -> int:
        """The numbers in the file."""
        pairs = (x for pair in self.factors.values() for x in pair)
        return sum(x.numel() for x in (*self.tensors.values(), *pairs))

    @property
    def rank(self) -> int | None:
        """The largest rank of the factors; None where nothing is factored."""
        return max((up.shape[1] for up, _ in self.factors.values()), default=None)

    @property
    def rms(self) -> float:
        """The root mean square of the whole delta; ||UV||^2 = tr(U^T U V V^T), so that nothing is expanded."""
        squares = sum(x.double().square().sum().item() for x in self.tensors.values())
        for up, down in self.factors.values():
            up, down = up.double(), down.double()
            squares += ((up.T @ up) * (down @ down.T)).sum().item()
        return math.sqrt(max(squares, 0.0) / sum(math.prod(shape) for shape in self.shapes.values()))


def delta_path(path: Path) -> Path:
    """The file that `path` means: itself, or the delta of a result folder. Raises CheckpointError for other folders."""
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / DELTA_FILE).is_file():
        raise CheckpointError(
            f"{path}: no {DELTA_FILE} in this folder; name a delta file or the result of a tuning run"
        )
    return path / DELTA_FILE


def read_delta(path: Path) -> StoredDelta:
    """Read and check a delta file or the one of a result folder. Raises CheckpointError, naming the file."""
    path = delta_path(path)
    return parse_delta(*load_tensors(path), str(path))


def parse_delta(contents: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> StoredDelta:
    """The delta in the tensors and metadata of a safetensors file. Raises CheckpointError, naming `where`."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{where}: its format is {metadata.get('format')!r}, not that of a delta ({FORMAT!r})")
    try:
        tensors, factors = _sorted_out(contents)
        listed = parse_json(metadata.get("shapes", "{}"), dict[str, list[int]])
        stated = {name: _shape(shape) for name, shape in listed.items()}
        shapes = {name: tuple(x.shape) for name, x in tensors.items()}
        shapes |= {name: _factored_shape(name, pair, stated) for name, pair in factors.items()}
        about = parse_json(metadata.get("about", "{}"))
        fingerprint = metadata["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where}: a damaged delta: {reason}; write it again") from error
    if not any(math.prod(shape) for shape in shapes.values()):
        raise CheckpointError(f"{where}: a delta without any weights; write it again")
    about = about if isinstance(about, dict) else {}
    return StoredDelta(tensors, factors, shapes, fingerprint, metadata.get("name", "generator"), about)


def _sorted_out(contents: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Factors]]:
    """Full tensors and pairs of factors, float32. Raises ValueError."""
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, values in contents.items():
        if not values.is_floating_point() or not (values := values.float()).isfinite().all():
            raise ValueError(f"{key} holds values that are not finite numbers")
        weight, _, part = key.partition("/")
        if part:
            parts.setdefault(weight, {})[part] = values
        else:
            tensors[weight] = values
    factors = {}
    for weight, pair in parts.items():
        if pair.keys() != {"up", "down"} or weight in tensors:
            raise ValueError(f"{weight} needs up and down, and nothing else; it has {', '.join(sorted(pair))}")
        factors[weight] = (pair["up"], pair["down"])
    return tensors, factors


def _shape(sizes: list[int]) -> Shape:
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"a shape of {sizes}")
    return tuple(sizes)


def _factored_shape(name: str, pair: Factors, stated: Mapping[str, Shape]) -> Shape:
    (up, down), shape = pair, stated.get(name, ())
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or len(shape) < 2:
        raise ValueError(f"{name} has factors {tuple(up.shape)} and {tuple(down.shape)} for shape {shape}")
    if (up.shape[0], down.shape[1]) != (shape[0], math.prod(shape[1:])):
        raise ValueError(f"{name} has factors {tuple(up.shape)} and {tuple(down.shape)}, which do not make {shape}")
    return shape


def expand(stored: StoredDelta, where: str) -> dict[str, Tensor]:
    """Every weight's delta in full, {weight: [*shape]}. Raises CheckpointError for sizes that no StyleGAN2 has,
    and for products that are not finite."""
    size = sum(math.prod(shape) for shape in stored.shapes.values())
    if size > MAX_VALUES:
        raise CheckpointError(f"{where}: its weights claim {size} values; refused (limit {MAX_VALUES})")
    tensors = dict(stored.tensors)
    for name, (up, down) in stored.factors.items():
        tensors[name] = (up @ down).reshape(stored.shapes[name])
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{where}: the factors of {name} make values that are not finite; write it again")
    return tensors


def check_fit(shapes: Mapping[str, Shape], generator: Generator, where: str) -> None:
    """Raise CheckpointError, naming `where`, for weights that `generator` lacks or has in other shapes."""
    tunable = generator.tunable
    for name, shape in shapes.items():
        if name not in tunable:
            hint = nearest(name, list(tunable))
            raise CheckpointError(f"{where}: {generator.name!r} has no tunable weight {name!r}{hint}")
        if shape != tunable[name]:
            raise CheckpointError(f"{where}: {name} has shape {shape}; {generator.name!r} takes {tunable[name]}")


def check_origin(fingerprint: str, name: str, generator: Generator, where: str) -> None:
    if fingerprint != generator.fingerprint:
        raise CheckpointError(
            f"{where}: made for generator {name!r} ({fingerprint}), not for {generator.name!r} "
            f"({generator.fingerprint}); name the generator it was made for, or force it (--force-delta)"
        )


def adopted(stored: StoredDelta, generator: Generator, where: str, force: bool) -> StoredDelta:
    """`stored` if it is a delta of `generator`; by force, as one of `generator`."""
    if not force:
        check_origin(stored.fingerprint, stored.name, generator, where)
    check_fit(stored.shapes, generator, where)
    if stored.fingerprint == generator.fingerprint:
        return stored
    about = stored.about | {"forced": {"fingerprint": stored.fingerprint, "name": stored.name}}
    return replace(stored, fingerprint=generator.fingerprint, name=generator.name, about=about)


def describe_delta(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of such a file (see `latentopt.registry.FORMATS`)."""
    delta = parse_delta(checkpoint.contents, checkpoint.metadata, str(checkpoint.path))
    return {
        "kind": "delta of tuned weights",
        "generator": delta.name,
        "fingerprint": delta.fingerprint,
        "weights": len(delta.shapes),
        "values": delta.values,
        "rank": delta.rank,
        "rms": delta.rms,
        "bytes": checkpoint.path.stat().st_size,
        "about": delta.about,
        "use": "sample, convert (--delta FILE), with the generator of this fingerprint",
    }
