"""Storages, the flat numbers that the tensors of a foreign pickle are views of: names and data, both checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.checkpoints.pickle_limits import Budget, Global, printable
from latentopt.checkpoints.restricted_unpickler import RestrictedUnpickler
from latentopt.errors import CheckpointError

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
STORAGES: dict[Global, str | None] = {Global("torch", name): None for name in _STORAGE_DTYPES}


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A flat tensor [numel], the data that tensors are views of."""

    flat: Tensor


@dataclass(frozen=True, slots=True)
class StorageReference:
    """A persistent id: which entry holds the data of a storage, its type and its length."""

    key: str
    dtype: torch.dtype
    numel: int


class StorageUnpickler(RestrictedUnpickler):
    """Inside a storage: names of storage types, and the one persistent id. Nothing else."""

    globals = STORAGES

    def persistent_load(self, pid: object) -> StorageReference:
        return storage_reference(self, pid)


def storage_reference(reader: RestrictedUnpickler, pid: object) -> StorageReference:
    """Parses ('storage', type, key, location, numel[, view_metadata None]); the location (a device) is ignored."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or any(pid[5:]):
        reader.damaged("a storage without its description")
    _, kind, key, _, numel = pid[:5]
    if type(kind) is not Global or kind not in STORAGES:
        reader.damaged("a storage without its type")
    if type(key) is not str or type(numel) is not int or numel < 0:
        reader.damaged("a storage without key or length")
    return StorageReference(key, _STORAGE_DTYPES[kind.name], numel)


def make_storage(data: bytes | memoryview, reference: StorageReference, budget: Budget) -> Storage:
    """Copies raw little-endian numbers into a flat tensor. Raises CheckpointError when their length is another."""
    if sys.byteorder != "little":
        raise CheckpointError(f"{budget.source}: checkpoints of this kind can only be read on little-endian machines")
    if len(data) != reference.numel * reference.dtype.itemsize:
        raise CheckpointError(
            f"{budget.source}: damaged checkpoint (storage {printable(reference.key)} has the wrong length)"
        )
    budget.charge("storages", len(data))
    if not data:
        return Storage(torch.empty(0, dtype=reference.dtype))
    if reference.dtype is torch.bool:  # a byte other than 0 and 1 is no valid bool
        return Storage(torch.frombuffer(bytearray(data), dtype=torch.uint8) != 0)
    return Storage(torch.frombuffer(bytearray(data), dtype=reference.dtype))
