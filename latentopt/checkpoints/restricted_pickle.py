"""Readers for foreign checkpoint files that can run nothing.

- `read_pickle`: snapshots of stylegan2-ada-pytorch and stylegan3, a plain pickle of persistence records.
- `read_torch_contents`: whatever `torch.save` wrote, in its zip format or the one of before torch 1.6: state dicts
  (rosinality, pSp, e4e, ReStyle), whole networks (PTI), tensors.

The standard loaders execute the source text inside such files. Here every global is looked up in an exact list and
answered by functions of this package; no source text is compiled, nothing is imported, and no more memory is used than
a few times the file's size. Every failure is a CheckpointError (damaged, another kind) or an UntrustedFileError (asks
for something else).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

import torch

from latentopt.checkpoints.network_unpickler import NETWORK_GLOBALS, NetworkUnpickler
from latentopt.checkpoints.persistence import Record, module_attributes, module_state
from latentopt.checkpoints.pickle_limits import Budget, Global, printable
from latentopt.checkpoints.storages import (
    STORAGES,
    Storage,
    StorageReference,
    StorageUnpickler,
    make_storage,
    storage_reference,
)
from latentopt.checkpoints.torch_zip import TorchZip
from latentopt.errors import CheckpointError, UntrustedFileError
from latentopt.files.kinds import LEGACY_TORCH, ZIP, check_file, refusal

__all__ = [
    "Record",
    "module_attributes",
    "module_state",
    "read_pickle",
    "read_torch_contents",
    "read_torch_file",
]

WANTED = "a file of torch.save"
MAX_FILE_BYTES = 8 << 30
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


@contextlib.contextmanager
def checkpoint_errors(name: str) -> Iterator[None]:
    """Turns every exception inside into one of the two errors of a foreign file, naming the file."""
    try:
        yield
    except (CheckpointError, UntrustedFileError):
        raise
    except Exception as error:  # MemoryError, RecursionError, EOFError, AssertionError, struct.error, ...
        detail = printable(f"{type(error).__name__}: {error}")
        raise CheckpointError(
            f"{name}: damaged, truncated or another kind of file ({detail}); download it again"
        ) from error


class SnapshotUnpickler(NetworkUnpickler):
    """A plain pickle: every storage is a byte string that holds a legacy torch file."""

    globals: ClassVar[dict[Global, str | None]] = {
        **NETWORK_GLOBALS,
        Global("torch.storage", "_load_from_bytes"): "storage_from_bytes",
    }

    def storage_from_bytes(self, blob: object) -> Storage:
        if type(blob) is not bytes:
            self.damaged("a storage that is no byte string")
        file = io.BytesIO(blob)
        _check_legacy_header(file, self.budget)
        reference = StorageUnpickler(file, self.budget).load()
        keys = StorageUnpickler(file, self.budget).load()
        if type(reference) is not StorageReference or keys != [reference.key]:
            self.damaged("a storage with other contents than one block of numbers")
        if int.from_bytes(file.read(8), "little") != reference.numel:
            self.damaged("a storage whose two lengths differ")
        return make_storage(memoryview(blob)[file.tell() :], reference, self.budget)


class TorchUnpickler(NetworkUnpickler):
    """What `torch.save` pickled: storages are persistent ids, whose data `find` gets by their keys."""

    globals: ClassVar[dict[Global, str | None]] = {
        **NETWORK_GLOBALS,
        **STORAGES,
        Global("collections", "Counter"): "counter",
    }
    max_repeated = 1 << 30

    def __init__(self, file: BinaryIO, budget: Budget, find: Callable[[StorageReference], Storage]) -> None:
        super().__init__(file, budget)
        self.find = find
        self.storages: dict[str, Storage] = {}

    def persistent_load(self, pid: object) -> Storage | Global:
        if type(pid) is tuple and pid[:1] == ("module",) and len(pid) == 4 and type(pid[1]) is Global:
            return pid[1]  # a class and its source text, which is dropped unread; the older format has them
        reference = storage_reference(self, pid)
        if reference.key not in self.storages:
            self.storages[reference.key] = self.find(reference)
        storage = self.storages[reference.key]
        if storage.flat.dtype != reference.dtype or storage.flat.numel() != reference.numel:
            self.damaged("one storage with two types or lengths")
        return storage

    def counter(self, counts: object = None) -> object:
        if not (counts is None or type(counts) is dict):
            self.damaged("a counter that is no table")
        return {} if counts is None else counts


def _read_zip(file: BinaryIO, name: str, size: int, foreign: set[Global] | None) -> object:
    archive, budget = TorchZip(file, name, size), Budget(name, size, foreign)

    def find(reference: StorageReference) -> Storage:
        entry = f"data/{reference.key}"
        if not re.fullmatch("[0-9]{1,9}", reference.key) or entry not in archive:
            raise CheckpointError(f"{name}: damaged checkpoint (no entry for storage {printable(reference.key)})")
        return make_storage(archive.read(entry), reference, budget)

    return TorchUnpickler(io.BytesIO(archive.read("data.pkl")), budget, find).load()


def _read_legacy(file: BinaryIO, name: str, size: int, foreign: set[Global] | None) -> object:
    """The data of the storages follow the pickle that names them: it is read twice, first to learn where they are."""
    _check_legacy_header(file, Budget(name, size))
    start, first = file.tell(), Budget(name, size, foreign)
    references: dict[str, StorageReference] = {}

    def note(reference: StorageReference) -> Storage:
        references[reference.key] = reference
        first.charge("storages", reference.numel * reference.dtype.itemsize)
        return Storage(torch.zeros(reference.numel, dtype=reference.dtype))

    TorchUnpickler(file, first, note).load()
    keys = StorageUnpickler(file, first).load()
    if type(keys) is not list or len(keys) != len(references) or set(keys) != references.keys():
        raise CheckpointError(f"{name}: damaged checkpoint (its list of storages is another)")
    second, data = Budget(name, size, foreign), {}
    for key in keys:
        reference = references[key]
        if int.from_bytes(file.read(8), "little") != reference.numel:
            raise CheckpointError(f"{name}: damaged checkpoint (a storage whose two lengths differ)")
        data[key] = make_storage(file.read(reference.numel * reference.dtype.itemsize), reference, second)
    file.seek(start)
    return TorchUnpickler(file, second, lambda reference: data[reference.key]).load()


def _check_legacy_header(file: BinaryIO, budget: Budget) -> None:
    magic, version, system = (StorageUnpickler(file, budget).load() for _ in range(3))
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
        raise CheckpointError(f"{budget.source}: damaged checkpoint (a storage that is no torch file)")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError(f"{budget.source}: damaged checkpoint (a storage of a big-endian machine)")


def check_file_size(path: str | os.PathLike[str]) -> int:
    """Size of a file in bytes. Raises CheckpointError above 8 GiB."""
    size = Path(path).stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, more than any StyleGAN checkpoint; refused")
    return size


def read_pickle(data: bytes, name: str, foreign: set[Global] | None = None) -> object:
    """Reads a plain `.pkl` snapshot of stylegan2-ada-pytorch or stylegan3 without running anything.

    Returns what was pickled, usually a dict with the keys G, D, G_ema, training_set_kwargs and augment_pipe: networks
    are `Record`s, tensors are contiguous CPU tensors, EasyDict and OrderedDict are dicts, numpy scalars are numbers.
    The source text inside (`module_src`) is dropped. `name` is used in messages. Where a set `foreign` is given,
    objects of other packages are left out instead of refused, and their classes put into it.

    Raises UntrustedFileError for a global or opcode outside the allow-list (named in the message; nothing was run), and
    CheckpointError for a damaged file, another kind of file, or a TensorFlow-era pickle.
    """
    with checkpoint_errors(name):
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{name}: {len(data)} bytes, more than any StyleGAN checkpoint; refused")
        if data.startswith((ZIP, LEGACY_TORCH)):
            raise CheckpointError(f"{name}: a torch file, not a plain pickle; rename it to .pt")
        return SnapshotUnpickler(io.BytesIO(data), Budget(name, len(data), foreign)).load()


def read_torch_contents(path: str | os.PathLike[str], foreign: set[Global] | None = None) -> object:
    """Reads what `torch.save` wrote, in its zip format or the older one, without running anything.

    Tensors are contiguous CPU tensors wherever they were saved from, persistence records are `Record`s, settings
    (argparse.Namespace) keep their names, paths are texts, numpy scalars are numbers. Raises UntrustedFileError for a
    global or opcode outside the allow-list (named in the message; nothing was run), CheckpointError for anything else
    that is wrong. `foreign` as in `read_pickle`.
    """
    name, path = str(path), check_file(Path(path), WANTED)
    with checkpoint_errors(name), path.open("rb") as file:
        size = check_file_size(path)
        start = file.read(len(LEGACY_TORCH))
        file.seek(0)
        if start.startswith(ZIP):
            return _read_zip(file, name, size, foreign)
        if start == LEGACY_TORCH:
            return _read_legacy(file, name, size, foreign)
    raise CheckpointError(refusal(path, WANTED))


def read_torch_file(path: str | os.PathLike[str]) -> dict:
    """As `read_torch_contents`, for files that hold a dict. Raises CheckpointError for others."""
    contents = read_torch_contents(path)
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: holds a {type(contents).__name__}, expected a dict of tensors")
    return contents
