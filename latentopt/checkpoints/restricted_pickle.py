"""Readers for foreign checkpoint files that can run nothing.

- `read_pickle`: snapshots of stylegan2-ada-pytorch and stylegan3, a plain pickle of persistence records.
- `read_torch_module`: a whole network saved by `torch.save(G)`, as PTI does: the same records in a torch zip.
- `read_torch_file`: dicts of tensors (rosinality, pSp, e4e, ReStyle) through `torch.load(weights_only=True)`.

The standard loaders execute the source text inside such files. Here every global is looked up in an exact list and
answered by functions of this package; no source text is compiled, nothing is imported, and no more memory is used than
a few times the file's size. Every failure is a CheckpointError (damaged, another kind) or an UntrustedFileError (asks
for something else).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

import torch

from latentopt.checkpoints.network_unpickler import NETWORK_GLOBALS, NetworkUnpickler
from latentopt.checkpoints.persistence import Record, module_attributes, module_state
from latentopt.checkpoints.restricted_unpickler import Budget, Global, printable, untrusted
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

__all__ = [
    "Record",
    "is_torch_module",
    "module_attributes",
    "module_state",
    "read_pickle",
    "read_torch_contents",
    "read_torch_file",
    "read_torch_module",
]

MAX_FILE_BYTES = 8 << 30
MIN_TORCH = (2, 10)
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
        magic, version, system = (StorageUnpickler(file, self.budget).load() for _ in range(3))
        if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
            self.damaged("a storage that is no torch file")
        if type(system) is not dict or system.get("little_endian") is not True:
            self.damaged("a storage of a big-endian machine")
        reference = StorageUnpickler(file, self.budget).load()
        keys = StorageUnpickler(file, self.budget).load()
        if type(reference) is not StorageReference or keys != [reference.key]:
            self.damaged("a storage with other contents than one block of numbers")
        if int.from_bytes(file.read(8), "little") != reference.numel:
            self.damaged("a storage whose two lengths differ")
        return make_storage(memoryview(blob)[file.tell() :], reference, self.budget)


class TorchModuleUnpickler(NetworkUnpickler):
    """data.pkl of `torch.save(G)`: storages are persistent ids that name entries of the zip."""

    globals: ClassVar[dict[Global, str | None]] = {**NETWORK_GLOBALS, **STORAGES}

    def __init__(self, archive: TorchZip, budget: Budget) -> None:
        super().__init__(io.BytesIO(archive.read("data.pkl")), budget)
        self.archive = archive
        self.storages: dict[str, Storage] = {}

    def persistent_load(self, pid: object) -> Storage:
        reference = storage_reference(self, pid)
        if reference.key not in self.storages:
            if not re.fullmatch("[0-9]{1,9}", reference.key) or f"data/{reference.key}" not in self.archive:
                self.damaged(f"no entry for storage {printable(reference.key)}")
            data = self.archive.read(f"data/{reference.key}")
            self.storages[reference.key] = make_storage(data, reference, self.budget)
        storage = self.storages[reference.key]
        if storage.flat.dtype != reference.dtype or storage.flat.numel() != reference.numel:
            self.damaged("one storage with two types or lengths")
        return storage


def check_file_size(path: str | os.PathLike[str]) -> int:
    """Size of a file in bytes. Raises CheckpointError above 8 GiB."""
    size = Path(path).stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, more than any StyleGAN checkpoint; refused")
    return size


def read_pickle(data: bytes, name: str) -> object:
    """Reads a plain `.pkl` snapshot of stylegan2-ada-pytorch or stylegan3 without running anything.

    Returns what was pickled, usually a dict with the keys G, D, G_ema, training_set_kwargs and augment_pipe: networks
    are `Record`s, tensors are contiguous CPU tensors, EasyDict and OrderedDict are dicts, numpy scalars are numbers.
    The source text inside (`module_src`) is dropped. `name` is used in messages.

    Raises UntrustedFileError for a global or opcode outside the allow-list (named in the message; nothing was run), and
    CheckpointError for a damaged file, another kind of file, or a TensorFlow-era pickle.
    """
    with checkpoint_errors(name):
        if len(data) > MAX_FILE_BYTES:
            raise CheckpointError(f"{name}: {len(data)} bytes, more than any StyleGAN checkpoint; refused")
        if data[:4] == b"PK\x03\x04" or data[:7] == b"\x80\x02\x8a\x0a\x6c\xfc\x9c":
            raise CheckpointError(f"{name}: a torch file, not a plain pickle; rename it to .pt")
        return SnapshotUnpickler(io.BytesIO(data), Budget(name, len(data))).load()


def is_torch_module(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a torch zip that holds persistence records: one for `read_torch_module`, not `read_torch_file`.

    Raises CheckpointError for a zip that is damaged or not torch's.
    """
    with checkpoint_errors(str(path)), Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        return b"_reconstruct_persistent_obj" in TorchZip(file, str(path), check_file_size(path)).read("data.pkl")


def read_torch_module(path: str | os.PathLike[str]) -> Record:
    """Reads a network saved whole by `torch.save(G)`, as PTI does, without running anything.

    Returns its root `Record`; tensors are contiguous CPU tensors wherever they were saved from. Raises
    UntrustedFileError for a global or opcode outside the allow-list, CheckpointError for anything else that is wrong.
    """
    with checkpoint_errors(str(path)), Path(path).open("rb") as file:
        size = check_file_size(path)
        network = TorchModuleUnpickler(TorchZip(file, str(path), size), Budget(str(path), size)).load()
    if not isinstance(network, Record):
        raise CheckpointError(f"{path}: holds a {type(network).__name__}, not a saved StyleGAN network")
    return network


def read_torch_file(path: str | os.PathLike[str]) -> dict:
    """Reads a dict saved by `torch.save` (rosinality, pSp, e4e, ReStyle; zip or legacy) by weights-only loading.

    Tensors come to the CPU. argparse.Namespace is let through, as inert data: training checkpoints keep their arguments
    in one. Raises UntrustedFileError naming a global that weights-only loading refuses; CheckpointError for anything
    else that is wrong, and for torch before 2.10, whose weights-only loading has known holes.
    """
    contents = read_torch_contents(path)
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: holds a {type(contents).__name__}, expected a dict of tensors")
    return contents


def read_torch_contents(path: str | os.PathLike[str]) -> object:
    """As `read_torch_file`, for files that hold something else than a dict, such as a single tensor."""
    installed = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if installed < MIN_TORCH:
        raise CheckpointError(
            f"{path}: torch {torch.__version__} cannot read foreign files safely; install torch 2.10 or newer"
        )
    with checkpoint_errors(str(path)), Path(path).open("rb") as file:
        size = check_file_size(path)
        if file.read(4) == b"PK\x03\x04":
            TorchZip(file, str(path), size)
        file.seek(0)
        return _weights_only(file, str(path))


def _weights_only(file: BinaryIO, name: str) -> object:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        message = str(error)
        if match := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message):
            raise untrusted(name, f"the global {printable(match[1])}") from None
        if match := re.search(r"unrecognized function (.{1,100})", message):
            raise untrusted(name, f"a call of {printable(match[1])}") from None
        raise
