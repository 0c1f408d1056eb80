"""Torch zip files, checked before anything inside is read."""

from __future__ import annotations

import stat
import zipfile
from pathlib import PurePosixPath
from typing import BinaryIO

from latentopt.checkpoints.pickle_limits import printable
from latentopt.errors import CheckpointError

MAX_DIRECTORY_BYTES = 16 << 20  # parsing takes ten times that; a network has some hundred entries of 100 bytes
_DIRECTORY_BYTES = zipfile._ECD_SIZE  # type: ignore[attr-defined]


class TorchZip:
    """The entries of a torch zip, checked before anything is read; `prefix` is the folder that holds data.pkl."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if not end or end[_DIRECTORY_BYTES] > MAX_DIRECTORY_BYTES:
            raise CheckpointError(f"{name}: no complete zip file, or one of too many entries; download it again")
        self.archive = zipfile.ZipFile(file)
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self.archive.infolist():
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or str(path) in self.entries:
                raise CheckpointError(
                    f"{name}: entry {printable(entry.filename)} has an unsafe or repeated name; refused"
                )
            if stat.S_ISLNK(entry.external_attr >> 16) or entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{name}: entry {printable(entry.filename)} is a link or compressed: torch.save writes neither"
                )
            self.entries[str(path)] = entry
        if sum(entry.file_size for entry in self.entries.values()) > size:
            raise CheckpointError(f"{name}: its entries are larger than the file; refused")
        found = [path for path in self.entries if PurePosixPath(path).name == "data.pkl"]
        if len(found) != 1:
            raise CheckpointError(f"{name}: a zip file without data.pkl, so not a torch file")
        self.prefix = str(PurePosixPath(found[0]).parent)
        if "byteorder" in self and self.read("byteorder") != b"little":
            raise CheckpointError(f"{name}: written on a big-endian machine; save it again on another")

    def __contains__(self, entry: str) -> bool:
        return str(PurePosixPath(self.prefix, entry)) in self.entries

    def read(self, entry: str) -> bytes:
        return self.archive.read(self.entries[str(PurePosixPath(self.prefix, entry))])
