"""Files that belong to a generator, found by its fingerprint: statistics, sigma, priors, directions, calibrations.

`latentopt.registry.FILES` names the finders. A finder takes (generator, the name that a recipe gives or None, the
plug-in's options) and returns the files that are read.
"""

from __future__ import annotations

import glob
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from latentopt.checkpoints.model_files import BUNDLED, resolve
from latentopt.errors import CheckpointError, LatentoptError, StatisticsError
from latentopt.files.resources import resource_folder
from latentopt.files.storage import load_metadata
from latentopt.files.text import to_run
from latentopt.protocols import Generator
from latentopt.statistics.moments import StatisticsWarning

UNFINISHED = ("{stem}.shard-*-of-*.safetensors", ".{stem}.partial.safetensors")  # of a fit in parts
FOLDERS = ("pnorm_stats", "sigma", "directions")  # in the working folder; the first is also shipped

T = TypeVar("T")


def _is_anothers(path: Path, generator: Generator) -> bool:
    """Whether the file is on record as another generator's; one that is damaged may be."""
    try:
        return path.exists() and load_metadata(path).get("fingerprint") not in (None, generator.fingerprint)
    except CheckpointError:
        return True


@dataclass(frozen=True)
class FileKind(Generic[T]):
    """Files of one kind: how they are told apart, read and made. It is the finder of the files of its kind.

    title    for people, such as "P-norm statistics"
    format   what their metadata say
    word     beside a generator's own file they are called `<word>.safetensors` or `<stem>.<word>.safetensors`
    folder   in the working folder, where new ones are kept
    suffix   of the names there, after the generator's name
    command  what makes one, without `--network`
    read     (path, generator) -> what the file holds. Raises StatisticsError or CheckpointError for a file that is
             damaged, does not fit or is another generator's
    make     (generator, path): measures in seconds what is asked for and not there, and keeps it at `path`; None for
             what takes longer, which is refused instead
    unfinished  patterns of files beside a new one, of its {stem}, in which unfinished work on it is kept
    """

    title: str
    format: str
    word: str
    folder: str
    suffix: str
    command: str
    read: Callable[[Path, Generator], T]
    make: Callable[[Generator, Path], object] | None = None
    unfinished: tuple[str, ...] = ()

    def __call__(self, generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
        """The file that is named, or the one at hand; none is no error."""
        if named is not None:
            return [Path(named)]
        found = first_at_hand(self, generator)
        return [] if found is None else [found[1]]

    def to_make(self, generator: Generator, options: str = "") -> str:
        """What to type to make one for `generator`, for the remedies of messages."""
        return to_run(f"{self.command} {options}".strip(), generator.source)

    def called_after(self, generator: Generator) -> str:
        """The name of the generator's file in the kind's folder."""
        return f"{generator.name}{self.suffix}"

    def new_path(self, generator: Generator, suffix: str | None = None) -> Path:
        """Where a new file is kept: under the generator's name, with its fingerprint where the name is another's.

        suffix: of the name, after the generator's, where it is not the kind's.
        """
        suffix = self.suffix if suffix is None else suffix
        path = Path(self.folder) / f"{generator.name}{suffix}"
        stem = glob.escape(path.stem)
        unfinished = [file for pattern in self.unfinished for file in path.parent.glob(pattern.format(stem=stem))]
        taken = any(_is_anothers(file, generator) for file in [path, *unfinished])
        return path.with_name(f"{generator.name}-{generator.fingerprint}{suffix}") if taken else path


def at_hand(kind: FileKind[T], generator: Generator) -> Iterator[tuple[T, Path]]:
    """What belongs to `generator` of a kind, and its file; the preferred one first.

    Looked for in this order: beside the generator's own file; in `FOLDERS` of the working folder, the file called after
    the generator before the others; in the shipped folder; among the bundled models. Of these, a file made for exactly
    these weights is preferred over one of a generator that was trained from them; within each, learned over estimated.

    Raises the error of a file beside the generator's own that cannot be read; other such files are warned of.
    """
    beside = _beside(kind, generator)
    for path in files_of(kind, generator):
        try:
            yield kind.read(path, generator), path
        except (CheckpointError, StatisticsError) as error:
            if path in beside:
                raise
            _pass_over(error)


def first_at_hand(kind: FileKind[T], generator: Generator) -> tuple[T, Path] | None:
    """The preferred one, None where there is none. Raises as `at_hand` does."""
    return next(at_hand(kind, generator), None)


def given_or_found(kind: FileKind[T], generator: Generator, given: str | Path | None = None) -> tuple[T, Path]:
    """What the `given` file holds or, without one, what is at hand, measured now if that is quick; and the file.

    Raises StatisticsError, with the command that makes one, where there is none.
    """
    if given is not None:
        return kind.read(Path(given), generator), Path(given)
    if (found := first_at_hand(kind, generator)) is not None:
        return found
    if kind.make is not None:
        kind.make(generator, kind.new_path(generator))
        if (found := first_at_hand(kind, generator)) is not None:
            return found
    missing = f"no {kind.title} of {generator.name!r} ({generator.fingerprint}); "
    remedy = f"run: {kind.to_make(generator)}"
    raise StatisticsError("\n".join([missing + remedy, *_refusals(kind, generator)]))


def files_of(kind: FileKind[Any], generator: Generator) -> list[Path]:
    """The files of a kind whose metadata say that they belong to `generator`, in the order of `at_hand`."""
    beside = _beside(kind, generator)
    found: list[tuple[bool, bool, Path]] = []
    for path in _each_once([*beside, *_elsewhere(kind, generator)]):
        try:
            metadata = load_metadata(path)
        except CheckpointError as error:
            if path in beside:
                raise StatisticsError(str(error)) from error
            _pass_over(error)
            continue
        if path in beside and metadata.get("format") != kind.format:
            raise StatisticsError(f"{path}: its format is {metadata.get('format')!r}, not {kind.format!r}")
        if _belongs(kind, generator, path, metadata):
            trained_from = metadata.get("fingerprint", generator.fingerprint) != generator.fingerprint
            found.append((trained_from, metadata.get("origin") == "estimated", path))
    return [path for *_, path in sorted(found, key=lambda entry: entry[:2])]  # the first of equals


def _belongs(kind: FileKind[Any], generator: Generator, path: Path, metadata: Mapping[str, str]) -> bool:
    if metadata.get("format") != kind.format:
        return False
    if "fingerprint" not in metadata:  # statistics that were taken over: there is only the name to go by
        return path.name == kind.called_after(generator)
    return generator.fingerprint in (metadata["fingerprint"], metadata.get("base"))


def _beside(kind: FileKind[Any], generator: Generator) -> list[Path]:
    """Those beside the generator's own file; none where it came from no file."""
    try:
        own = resolve(generator.source)
    except LatentoptError:
        return []
    paths = (own.with_name(f"{kind.word}.safetensors"), own.with_name(f"{own.stem}.{kind.word}.safetensors"))
    return [path for path in paths if path.is_file() and path != own]


def _elsewhere(kind: FileKind[Any], generator: Generator) -> Iterator[Path]:
    """Those in the working folder, shipped and bundled; other kinds' files among them."""
    first = kind.called_after(generator)
    for folder in (*map(Path, FOLDERS), resource_folder(FOLDERS[0])):
        files = [path for path in folder.glob("*.safetensors") if not path.name.startswith(".")]  # those are unfinished
        yield from sorted(files, key=lambda path: (path.name != first, path.name))
    yield from sorted(BUNDLED.glob(f"*/{kind.word}.safetensors"))


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """Without those that are another name of an earlier one: the shipped folder may be the working folder's."""
    distinct: dict[Path, Path] = {}
    for path in paths:
        distinct.setdefault(path.resolve(), path)
    return list(distinct.values())


def _refusals(kind: FileKind[Any], generator: Generator) -> Iterator[str]:
    """Why the files that are called after the generator are not its own."""
    for folder in (Path(kind.folder), resource_folder(FOLDERS[0])):
        path = folder / kind.called_after(generator)
        if path.is_file():
            try:
                kind.read(path, generator)
            except LatentoptError as error:
                yield str(error)


def _pass_over(error: Exception) -> None:
    warnings.warn(f"passed over: {error}", StatisticsWarning, stacklevel=2)


def named_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The file that is named; nothing is looked for."""
    return [] if named is None else [Path(named)]


def saved_inputs(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """Saved inputs: a file, or a result's folder."""
    return [path / "inputs.safetensors" if path.is_dir() else path for path in named_file(generator, named, part)]
