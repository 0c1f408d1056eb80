"""Files that are never half-written, safetensors with metadata, and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentopt.errors import CheckpointError
from latentopt.files.kinds import check_file, kind_of, refusal
from latentopt.files.writing import write_atomically as write_atomically
from latentopt.files.writing import write_text as write_text

WANTED = "a safetensors file of latentopt"
HEADER_LIMIT = 16 << 20  # bytes; a foreign file with a larger index is refused before it is parsed
ENTRIES_LIMIT = 10_000  # tensors; a model has some hundred, and each costs time to look up
MODEL_LIMIT = 8 << 30  # bytes of a whole file
STATISTICS_LIMIT = 256 << 20


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, atomically; tensors are detached, made contiguous and moved to the CPU."""
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(flat, temporary, dict(metadata or {})))


def load_tensors(path: Path, limit: int = MODEL_LIMIT) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file of at most `limit` bytes.

    Raises CheckpointError, naming the file, when it is larger, which is told before anything is read, or damaged.
    """
    with _opened(path, limit) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose tensors are not read. Raises CheckpointError as `load_tensors` does."""
    with _opened(path, MODEL_LIMIT) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path, limit: int) -> Iterator[Any]:
    path = check_file(path, WANTED)
    try:
        if (size := path.stat().st_size) > limit:
            raise CheckpointError(f"{path}: {size} bytes, more than a file of its kind has ({limit}); refused")
        if (kind := kind_of(path)).name != "safetensors":
            raise CheckpointError(refusal(path, WANTED, kind))
        _check_index(path)
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _check_index(path: Path) -> None:
    """The library takes a time that grows faster than the index."""
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        if header > HEADER_LIMIT:
            raise CheckpointError(f"{path}: its index claims {header} bytes; refused (limit {HEADER_LIMIT})")
        entries = stream.read(header).count(b'"data_offsets"')
    if entries > ENTRIES_LIMIT:
        raise CheckpointError(f"{path}: {entries} tensors, more than any model has ({ENTRIES_LIMIT}); refused")


def to_json(value: object, indent: int | None = None) -> str:
    """Standard JSON, the same for equal values; what is not finite becomes null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False, sort_keys=isinstance(value, list))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
