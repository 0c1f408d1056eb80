"""Where a ledger lies: small files, of which one can be made by exactly one process. In a folder, or at an address that
fsspec knows.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from latentopt.errors import UsageError
from latentopt.files.outputs import TEMPORARY, clear_write_errors
from latentopt.files.writing import write_text

CLOCK = "clock"  # a file that is written to learn the time of the disk


class Shelf(Protocol):
    """Small files by name; a name has at most one slash in it."""

    def create(self, name: str, text: str) -> bool:
        """Make a file; False where it is there already. Of several processes, one gets True."""

    def write(self, name: str, text: str) -> None:
        """Make or replace a file, whole."""

    def read(self, name: str) -> str | None:
        """Its text; None where there is no such file."""

    def touch(self, name: str) -> bool:
        """Make it look new; False where there is no such file."""

    def age(self, name: str) -> float:
        """Seconds since it was written or touched, by the disk's own clock; infinite where there is no such file."""

    def remove(self, name: str) -> None:
        """Remove it, if it is there."""

    def names(self, folder: str) -> Sequence[str]:
        """The files in a folder, without it; none where it is not there."""

    def clear(self) -> None:
        """Remove all."""


class FolderShelf:
    """A folder, perhaps of a network disk: a file is made by `link`, which one process can do, on NFS as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, name: str, text: str) -> bool:
        path = self.folder / name
        with clear_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(text)
                os.link(temporary, path)  # whole, or not at all, even if we are killed now
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)  # noqa: PTH108
        return True

    def write(self, name: str, text: str) -> None:
        with clear_write_errors(self.folder / name):
            write_text(self.folder / name, text)

    def read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> bool:
        try:
            os.utime(self.folder / name)
        except FileNotFoundError:
            return False
        return True

    def age(self, name: str) -> float:
        with suppress(FileNotFoundError):
            written = (self.folder / name).stat().st_mtime
            clock = self.folder / CLOCK
            clock.touch()  # the disk's clock may differ from ours
            return clock.stat().st_mtime - written
        return float("inf")

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def names(self, folder: str) -> Sequence[str]:
        try:
            return os.listdir(self.folder / folder)  # noqa: PTH208 (names alone, of thousands of files)
        except FileNotFoundError:
            return ()

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class FsspecShelf:
    """An address such as s3://bucket/run: a file is made by the storage's conditional writing, where it has one."""

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("fsspec") is None:
            raise UsageError(f"{address}: addresses need fsspec: pip install 'latentopt[scale]'")
        import fsspec

        self.files: Any
        try:
            self.files, self.root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:  # of a kind that needs a package, or that nobody knows
            raise UsageError(f"{address}: no place for a ledger: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def create(self, name: str, text: str) -> bool:
        self.files.makedirs(self._path(name).rsplit("/", 1)[0], exist_ok=True)
        try:
            self.files.pipe_file(self._path(name), text.encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def write(self, name: str, text: str) -> None:
        self.files.makedirs(self._path(name).rsplit("/", 1)[0], exist_ok=True)
        self.files.pipe_file(self._path(name), text.encode())

    def read(self, name: str) -> str | None:
        try:
            return self.files.cat_file(self._path(name)).decode()
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> bool:
        text = self.read(name)
        if text is not None:
            self.write(name, text)  # an object's time is that of its writing
        return text is not None

    def age(self, name: str) -> float:
        self.files.invalidate_cache()
        try:
            return time.time() - self.files.modified(self._path(name)).timestamp()
        except FileNotFoundError:
            return float("inf")

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.files.rm_file(self._path(name))

    def names(self, folder: str) -> Sequence[str]:
        self.files.invalidate_cache()
        try:
            return [path.rsplit("/", 1)[-1] for path in self.files.ls(self._path(folder), detail=False)]
        except FileNotFoundError:
            return ()

    def clear(self) -> None:
        with suppress(FileNotFoundError):
            self.files.rm(self.root, recursive=True)
