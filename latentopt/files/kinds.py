"""What a file is, told by its content and never by its name: to choose a reader, and to say what was found instead.

Imports no torch. Reads a bounded part of the file and runs nothing.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from latentopt.errors import CheckpointError, LatentoptError
from latentopt.files.addresses import address_of, how_to_fetch
from latentopt.files.signatures import CONVERT, LENGTH, OTHERS, PACKED, PICTURES, READ_PICTURES
from latentopt.files.signatures import Kind as Kind
from latentopt.files.text import one_line
from latentopt.files.text_kinds import text_kind

ZIP = b"PK\x03\x04"
LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c"  # the pickled magic number of torch's format before 1.6
TEXT_PICKLE = re.compile(rb"\(*c[\w.]+\r?\n[\w.]+\r?\n")  # protocols 0 and 1 have no magic; this one names a global
ZIP_INDEX_LIMIT = 16 << 20  # bytes
INDEX_LIMIT = 16 << 20  # bytes, of a safetensors file
GZIP = zlib.MAX_WBITS | 16  # with gzip's header
AGAIN = "the download did not finish or gave something else; get the file again"
DAMAGED = ("empty", "zeros", "truncated")  # such a file may be of the kind that is wanted
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".opdownload", ".aria2", ".tmp")


PURPOSE = {  # what takes a file of a kind that is read
    "picture": "pictures are what latentopt invert takes, and its results are what other commands take",
    "safetensors": "latentopt info says what it holds",
    "torch": "latentopt info says what it holds",
    "torch-legacy": "latentopt info says what it holds",
    "pickle": "models are given with --network; latentopt info says what it holds",
    "npz": "latents in it are what latentopt edit and --init file: take",
    "npy": "latents in it are what latentopt edit and --init file: take",
    "text": "give another file",
}


def check_file(source: str | Path, wanted: str, error: type[LatentoptError] = CheckpointError) -> Path:
    """The file `source`. `wanted`: what it should be, such as "a model file".

    Raises `error`, with the remedy, for an address, a folder, a broken link and where there is no file.
    """
    path = Path(source)
    if (address := address_of(source)) and not path.exists():
        raise error(f"{address}: an address, not {wanted}; latentopt downloads nothing: {how_to_fetch(address)}")
    if path.is_dir():
        raise error(f"{source}: a folder, not {wanted}; give a file in it")
    if path.is_symlink() and not path.exists():
        remedy = "git annex get" if "annex" in str(path.readlink()) else "put its target there, or give another file"
        raise error(f"{source}: a link to {path.readlink()}, which is not there; {remedy}")
    if not path.is_file():
        raise error(f"{source}: {'no file' if path.exists() else 'no such file'}; give {wanted}")
    return path


def refusal(path: str | os.PathLike[str], wanted: str, kind: Kind | None = None) -> str:
    """The message for a file that is not what was `wanted`: what it is, and the remedy."""
    kind = kind or kind_of(Path(path))
    remedy = kind.remedy or PURPOSE[kind.name]
    if wanted.startswith("a picture") and kind.name in ("other", "text"):
        remedy = "convert it to PNG, or give another"
    instead = "" if kind.name in DAMAGED else f", not {wanted}"
    return f"{path}: {kind.words}{instead}; {remedy}"


def kind_of(path: Path) -> Kind:
    """What the file `path` is. Raises CheckpointError, naming it, where it cannot be read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(LENGTH)
            size = stream.seek(0, 2)
            return _kind(stream, start, size, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _kind(stream: BinaryIO, start: bytes, size: int, path: Path) -> Kind:
    if not start:
        return Kind("empty", "an empty file (0 bytes)", AGAIN)
    if not start.strip(b"\0"):
        return Kind("zeros", "zero bytes where its contents should be", AGAIN)
    if start[:4] in (ZIP, b"PK\x05\x06"):
        return _zip_kind(stream, size)
    if start[4:9] == b"\0\0\0\0{":  # the length of the index, below 4 GiB, then JSON
        return _safetensors_kind(stream, start, size)
    return (
        _array_or_pickle(start)
        or _signed(start)
        or text_kind(start)
        or Kind("unknown", "no kind of file that latentopt knows", _unfinished(path) or AGAIN)
    )


def _unfinished(path: Path) -> str:
    return "its name is that of an unfinished download; wait for it" if path.suffix.lower() in UNFINISHED else ""


def _array_or_pickle(start: bytes) -> Kind | None:
    if start.startswith(b"\x93NUMPY"):
        return Kind("npy", "a NumPy array")
    if start.startswith(LEGACY_TORCH):
        return Kind("torch-legacy", "a torch file (old format)")
    if (start[:1] == b"\x80" and start[1:2] in b"\0\1\2\3\4\5") or TEXT_PICKLE.match(start):
        return Kind("pickle", "a Python pickle")
    return None


def _signed(start: bytes) -> Kind | None:
    """By the tables of signatures."""
    for offset, mark, name in PICTURES:
        if start.startswith(mark, offset):
            read = name in READ_PICTURES
            return Kind("picture" if read else "other-picture", f"a picture ({name})", "" if read else CONVERT)
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return Kind("picture", "a picture (BMP)")
    if member := _tar_member(start) or _tar_member(_inflated(start, GZIP)):
        return Kind("packed", f"a packed file (tar, of {member!r})", _unpack("tar xf"))
    for offset, mark, name, command in PACKED:
        if start.startswith(mark, offset):
            return Kind("packed", f"a packed file ({name})", _unpack(command))
    for offset, mark, words in OTHERS:
        if start.startswith(mark, offset):
            return Kind("other", words, _SAVE_AGAIN)
    if start[:1] == b"\x08" and (b"pytorch" in start[:64] or b"onnx" in start[:64]):
        return Kind("other", "an ONNX model", _SAVE_AGAIN)
    if _inflated(start, zlib.MAX_WBITS):
        return Kind("packed", "a packed file (zlib, as joblib writes)", _SAVE_AGAIN)
    return None


def _inflated(start: bytes, window: int) -> bytes:
    """The first bytes of what zlib packed; none where it did not."""
    try:
        return zlib.decompressobj(window).decompress(start, 512)
    except zlib.error:
        return b""


def _tar_member(block: bytes) -> str | None:
    """The name of the first file in a tar archive: its checksum tells, where no mark does."""
    try:
        return one_line(tarfile.TarInfo.frombuf(block[:512], "utf-8", "replace").name)
    except (tarfile.HeaderError, ValueError):
        return None


_SAVE_AGAIN = "latentopt reads no such files; save it from its own program as one that it reads"


def _unpack(command: str) -> str:
    return f"unpack it ({command}) and give the file inside"


def _zip_kind(stream: BinaryIO, size: int) -> Kind:
    try:
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
        if not end:
            return Kind("truncated", "a zip or torch file whose end is missing", AGAIN)
        if end[zipfile._ECD_SIZE] > ZIP_INDEX_LIMIT:  # type: ignore[attr-defined]
            return Kind("packed", "a zip file of too many entries", "give one of the files inside")
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
        return Kind("truncated", f"a damaged zip or torch file ({size:,} bytes)", AGAIN)
    names = [PurePosixPath(member.filename) for member in members if not member.is_dir()]
    if any(name.name == "data.pkl" for name in names):
        if any(name.name == "constants.pkl" for name in names):
            return Kind("torch-script", "a TorchScript program", _STATE_DICT)
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            return Kind(
                "packed", "a torch file that was packed again", "zip its folder without compression (zip -0 -r)"
            )
        return Kind("torch", "a torch file")
    if names and all(name.suffix == ".npy" for name in names):
        return Kind("npz", "NumPy arrays (.npz)")
    held = ", ".join(repr(one_line(str(name))) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return Kind("packed", f"a packed file (zip, of {held or 'nothing'})", _unpack("unzip"))


_STATE_DICT = "save the network's state dict as .safetensors, and give that"


def _safetensors_kind(stream: BinaryIO, start: bytes, size: int) -> Kind:
    """Its index says how long the file is, and for our files what they hold."""
    length = int.from_bytes(start[:8], "little")
    words = "a safetensors file"
    if length <= INDEX_LIMIT:
        stream.seek(8)
        try:
            index = json.loads(stream.read(length))
            ends = (int(entry["data_offsets"][1]) for name, entry in index.items() if name != "__metadata__")
            whole = 8 + length + max(ends, default=0)
            form = str(index.get("__metadata__", {}).get("format", ""))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            whole, form = 8 + length, ""
        if form.startswith("latentopt-"):
            words = f"a file of latentopt ({one_line(form[10:60])})"
        if size >= whole:
            return Kind("safetensors", words)
    elif size >= (whole := 8 + length):
        return Kind("safetensors", words)  # its reader refuses such an index
    return Kind("truncated", f"{words} that is not whole ({size:,} of {whole:,} bytes)", AGAIN)
