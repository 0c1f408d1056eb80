"""Latents of many results in few files: safetensors that are written a row at a time, so that none is held. Needs no
torch.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from latentopt.errors import CheckpointError
from latentopt.files.outputs import TEMPORARY, clear_write_errors

IMAGES = 10_000  # in a file
HEADER = 1024  # bytes of its index, filled up with spaces
INDEX_LIMIT = 1 << 20  # bytes of the index of one result's file
LATENT = "ws"


def read_latent(path: Path) -> tuple[bytes, tuple[int, ...], list[str]]:
    """Of a result's inputs.safetensors: ws as float32 bytes, its shape (1,L,C), and what else is in the file.

    Raises CheckpointError for one that is damaged.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > INDEX_LIMIT:
                raise ValueError(f"an index of {length} bytes")
            index = json.loads(stream.read(length))
            entry = index[LATENT]
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            if entry["dtype"] != "F32" or len(shape) != 3 or shape[0] != 1 or end - begin != 4 * shape[1] * shape[2]:
                raise ValueError(f"latents of {entry['dtype']} {list(shape)}")
            stream.seek(8 + length + begin)
            data = stream.read(end - begin)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable latents ({error}); invert the image again") from error
    if len(data) != end - begin:
        raise CheckpointError(f"{path}: cut off; invert the image again")
    others = sorted({name.partition("/")[0] for name in index if name not in (LATENT, "__metadata__")})
    return data, shape, others


class Packer:
    """Writes latents-00000.safetensors, latents-00001.safetensors and so on: `ws` [N,L,C], N up to `images`."""

    def __init__(self, folder: Path, images: int = IMAGES) -> None:
        self.folder, self.images = folder, images
        self.number = self.count = 0
        self.shape: tuple[int, ...] = ()
        self.stream: BinaryIO | None = None

    def add(self, data: bytes, shape: tuple[int, ...]) -> tuple[str, int]:
        """The file and the row that an image's ws, as `read_latent` gives them, have gone to. Another shape begins
        another file.
        """
        if self.stream is not None and (self.count == self.images or shape != self.shape):
            self.close()
        if self.stream is None:
            self._open(shape)
        assert self.stream is not None
        with clear_write_errors(self.path):
            self.stream.write(data)
        self.count += 1
        return self.path.name, self.count - 1

    @property
    def path(self) -> Path:
        return self.folder / f"latents-{self.number:05d}.safetensors"

    def _open(self, shape: tuple[int, ...]) -> None:
        with clear_write_errors(self.path):
            handle, self.temporary = tempfile.mkstemp(prefix=TEMPORARY, suffix=".safetensors", dir=self.folder)
            self.stream, self.shape, self.count = os.fdopen(handle, "wb"), shape, 0
            self.stream.write(b" " * (8 + HEADER))

    def close(self) -> None:
        """Finish the file that is being written: it appears whole."""
        if self.stream is None:
            return
        _, rows, width = self.shape
        size = 4 * self.count * rows * width
        entry = {"dtype": "F32", "shape": [self.count, rows, width], "data_offsets": [0, size]}
        index = json.dumps({"__metadata__": {"format": "latentopt-latents-1"}, LATENT: entry})
        with clear_write_errors(self.path):
            self.stream.seek(0)
            self.stream.write(HEADER.to_bytes(8, "little") + index.encode().ljust(HEADER))
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            Path(self.temporary).chmod(0o644)
            Path(self.temporary).replace(self.path)
        self.stream, self.number = None, self.number + 1

    def clean(self) -> None:
        """Remove what an earlier merge left beyond these files, and what is unfinished."""
        if self.stream is not None:
            self.stream.close()
            with suppress(FileNotFoundError):
                Path(self.temporary).unlink()
        for path in self.folder.glob("latents-*.safetensors"):
            number = path.stem.removeprefix("latents-")
            if number.isdecimal() and int(number) >= self.number:
                path.unlink()
