"""Model files as they stand on disk: which file is meant, what kind it is by its content, and its contents, inert."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from latentopt.checkpoints.finding import Found, networks_in
from latentopt.checkpoints.pickle_limits import Global, printable
from latentopt.checkpoints.restricted_pickle import Record, check_file_size, read_pickle, read_torch_contents
from latentopt.errors import CheckpointError, MissingWeightsError, UntrustedFileError
from latentopt.files.kinds import check_file, kind_of, refusal
from latentopt.files.resources import PACKAGE
from latentopt.files.storage import load_tensors
from latentopt.hub.addresses import hub_address
from latentopt.hub.fetching import fetch, fixed

BUNDLED = PACKAGE / "bundled"
WANTED = "a model file"

Source = str | Path


@dataclass(frozen=True)
class Checkpoint:
    """A file as it was read, nothing built yet.

    `format` is how it was written: `pickle`, `torch` (networks as Records, tensors) or `safetensors` (tensors;
    `metadata` as in the file). `contents` of a list are by number. `refused` is why the whole of it is not trusted: it
    has objects of other packages, which were left out; a network that is whole without them may be used.
    """

    path: Path
    format: Literal["pickle", "torch", "safetensors"]
    contents: Mapping[str, Any]
    metadata: Mapping[str, str]
    refused: UntrustedFileError | None = None
    foreign: tuple[str, ...] = ()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """A network that is not there, or not whole, may be among what was left out: then the file is refused."""
        try:
            yield
        except CheckpointError as error:
            raise self.refused or error from error

    @property
    def is_ours(self) -> bool:
        """Whether latentopt wrote it: its metadata say what it holds."""
        return self.metadata.get("format", "").startswith("latentopt-")

    @cached_property
    def networks(self) -> list[Found]:
        """The networks in it, in their order."""
        return networks_in(self.contents)


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
    """The file that `source` means: a bundled model by its name (`./name` is a file), a path, or one on the Hub
    (`hf:user/repo[@revision][/file]`), which is fetched.

    Raises CheckpointError where there is no such file, HubError where the Hub does not give it.
    """
    text, path = str(source), Path(source)
    if isinstance(source, str) and text == path.name and (BUNDLED / text / f"{kind}.safetensors").is_file():
        return bundled_path(text, kind)
    if (address := hub_address(source)) is not None:
        return fetch(address, f"{kind}.safetensors")
    names = ", ".join(bundled_names()) or "none here"
    return check_file(source, f"{WANTED} or the name of a bundled model ({names})")


def named(source: Source, path: Path) -> tuple[str, str]:
    """What a model is called that `resolve` found at `path`, and what `--network` takes to load the very same again."""
    if (address := hub_address(source)) is not None:
        return address.name, str(fixed(address, path))
    return Path(source).stem, str(source)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of any known kind, told by its first bytes. Runs nothing.

    Objects of other packages beside networks that are known are left out: see `Checkpoint.refused`. Raises
    UntrustedFileError, naming the global, for another pickle that asks for code; CheckpointError, which says what the
    file is, for all others, and for pickles and torch files above 8 GiB.
    """
    kind = kind_of(path)
    if kind.name == "safetensors":
        tensors, metadata = load_tensors(path)
        return Checkpoint(path, "safetensors", tensors, metadata)
    if kind.name not in ("torch", "torch-legacy", "pickle"):
        raise CheckpointError(refusal(path, WANTED, kind))
    check_file_size(path)
    try:
        return _read(path, kind.name)
    except UntrustedFileError as refused:
        foreign: set[Global] = set()
        try:
            read = _read(path, kind.name, foreign)
        except CheckpointError:
            raise refused from None
        if not read.networks:
            raise
        names = sorted(f"{printable(x.module)}.{printable(x.name)}" for x in foreign)
        return replace(read, refused=refused, foreign=tuple(names))


def _read(path: Path, kind: str, foreign: set[Global] | None = None) -> Checkpoint:
    if kind == "pickle":
        return Checkpoint(path, "pickle", _table(read_pickle(path.read_bytes(), str(path), foreign), path), {})
    return Checkpoint(path, "torch", _table(read_torch_contents(path, foreign), path), {})


def _table(contents: object, path: Path) -> Mapping[str, Any]:
    """The contents by name; a network that was saved whole is named ""."""
    if isinstance(contents, Record):
        return {"": contents}
    if isinstance(contents, (list, tuple)):
        return {f"item {i}": item for i, item in enumerate(contents)}
    if isinstance(contents, dict):
        return contents
    held = "single tensor, as latents and directions are" if isinstance(contents, Tensor) else type(contents).__name__
    raise CheckpointError(f"{path}: holds a {held}, not networks; give {WANTED}")
