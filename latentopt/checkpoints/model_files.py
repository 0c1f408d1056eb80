"""Model files as they stand on disk: which file is meant, what kind it is by its content, and its contents, inert."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentopt.checkpoints import nvidia
from latentopt.checkpoints.restricted_pickle import (
    Record,
    check_file_size,
    is_torch_module,
    read_pickle,
    read_torch_file,
    read_torch_module,
)
from latentopt.errors import CheckpointError, MissingWeightsError
from latentopt.files.resources import PACKAGE
from latentopt.files.storage import load_tensors

BUNDLED = PACKAGE / "bundled"
ZIP_MAGIC, LEGACY_TORCH_MAGIC = b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c"
TEXT_PICKLE = re.compile(rb"\(*c[\w.]+\r?\n[\w.]+\r?\n")  # protocol 0 and 1 have no magic; this one names a global

Source = str | Path


@dataclass(frozen=True)
class Checkpoint:
    """A file as it was read, nothing built yet.

    `format` is `nvidia` (contents: the pickled dict, networks as Records), `torch` (a dict saved by torch) or
    `safetensors` (contents: tensors; `metadata` as in the file).
    """

    path: Path
    format: Literal["nvidia", "torch", "safetensors"]
    contents: Mapping[str, Any]
    metadata: Mapping[str, str]


def bundled_names() -> list[str]:
    """The bundled models that have a generator."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/generator.safetensors"))


def bundled_path(name: str, kind: str = "generator") -> Path:
    """The file of a bundled model: generator, discriminator, perceptual, judge, ... Raises MissingWeightsError."""
    path = BUNDLED / name / f"{kind}.safetensors"
    if not path.is_file():
        known = ", ".join(bundled_names()) or "none here"
        raise MissingWeightsError(f"no bundled {kind} named {name!r} (bundled models: {known}); give a file instead")
    return path


def resolve(source: Source, kind: str = "generator") -> Path:
    """The file that `source` means: a bundled model by its name (`./name` is a file), or a path.

    Raises CheckpointError where there is no such file.
    """
    text, path = str(source), Path(source)
    if isinstance(source, str) and text == path.name and (BUNDLED / text / f"{kind}.safetensors").is_file():
        return bundled_path(text, kind)
    if path.is_dir():
        raise CheckpointError(f"{source}: a folder, not a model file")
    if not path.is_file():
        raise CheckpointError(f"{source}: no such file, and no bundled model ({', '.join(bundled_names()) or 'none'})")
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of any known kind, told by its first bytes. Runs nothing.

    Raises UntrustedFileError, naming the global, for a pickle that asks for code; CheckpointError for other files, and
    for pickles and torch files above 8 GiB.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
            if _is_plain_pickle(start):
                check_file_size(path)
                stream.seek(0)
                return Checkpoint(path, "nvidia", _networks(read_pickle(stream.read(), str(path)), path), {})
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if _is_safetensors(start):
        tensors, metadata = load_tensors(path)
        return Checkpoint(path, "safetensors", tensors, metadata)
    if start.startswith(ZIP_MAGIC) and is_torch_module(path):
        return Checkpoint(path, "nvidia", _networks(read_torch_module(path), path), {})
    if start.startswith((ZIP_MAGIC, LEGACY_TORCH_MAGIC)):
        return Checkpoint(path, "torch", read_torch_file(path), {})
    raise CheckpointError(f"{path}: no NVIDIA pickle, torch file or safetensors file; latentopt reads no other models")


def _is_safetensors(start: bytes) -> bool:
    """A header length below 4 GiB, then JSON. The length may begin with the byte of a pickle."""
    return start[4:9] == b"\0\0\0\0{"


def _is_plain_pickle(start: bytes) -> bool:
    if start.startswith(LEGACY_TORCH_MAGIC) or _is_safetensors(start):
        return False
    return start[:1] == b"\x80" or TEXT_PICKLE.match(start) is not None


def _networks(contents: object, path: Path) -> Mapping[str, Any]:
    if isinstance(contents, Record):  # one network saved whole
        return {"D" if nvidia.network_kind(contents) == "discriminator" else "G_ema": contents}
    if isinstance(contents, dict):
        return contents
    raise CheckpointError(f"{path}: a pickle that holds a {type(contents).__name__}, not networks")
