"""Direction files (`latentopt-directions-1`): several directions of one generator, and where they are looked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from latentopt.checkpoints.arrays import read_arrays
from latentopt.checkpoints.model_files import Checkpoint, resolve
from latentopt.editing.direction import Direction
from latentopt.editing.foreign import is_foreign, read_foreign
from latentopt.editing.layers import layers_text
from latentopt.errors import CheckpointError, LatentoptError
from latentopt.files.schema import parse_json
from latentopt.files.storage import STATISTICS_LIMIT, load_tensors, save_tensors
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import FileKind, at_hand

FORMAT = "latentopt-directions-1"
FOLDER = Path("directions")  # in the working directory: where `latentopt directions find` writes
FIELDS = ("space", "layers", "method", "score", "about", "slope")


class DirectionRecord(TypedDict):
    """One direction in the metadata; its vector is the tensor of its name."""

    space: str
    layers: tuple[int, ...] | None
    method: str
    score: float | None
    about: dict[str, Any]
    slope: float


def save_directions(path: Path, directions: Sequence[Direction]) -> None:
    """Write directions of one generator: a tensor each, the rest as metadata; atomically.

    Raises ValueError for none, two of one name, or those of several generators.
    """
    directions = list(directions)
    if len({direction.fingerprint for direction in directions}) != 1:
        raise ValueError("a file holds one or more directions of one generator")
    if len({direction.name for direction in directions}) != len(directions):
        raise ValueError("two directions of one name")
    entries = {d.name: {field: getattr(d, field) for field in FIELDS} for d in directions}
    metadata = {
        "format": FORMAT,
        "fingerprint": directions[0].fingerprint,
        "generator": directions[0].generator,
        "directions": json.dumps(entries),
    }
    save_tensors(Path(path), {d.name: d.vector for d in directions}, metadata)


def kept_directions(path: Path, generator: Generator) -> list[Direction]:
    """The directions already in the file `path`, none where there is no file.

    Raises CheckpointError for a file of another generator's directions, or of none.
    """
    kept = read_directions(path) if path.exists() else []
    if kept and kept[0].fingerprint != generator.fingerprint:
        raise CheckpointError(
            f"{path}: holds directions of generator {kept[0].generator!r}; name another file with --out"
        )
    return kept


def add_directions(path: Path, found: Sequence[Direction], generator: Generator) -> None:
    """Write `found` to the file `path` beside the directions that are in it; those of the same names are replaced.

    Raises CheckpointError as `kept_directions`, and ValueError as `save_directions`.
    """
    names = {direction.name for direction in found}
    others = [direction for direction in kept_directions(path, generator) if direction.name not in names]
    save_directions(path, [*others, *found])


def load_directions(source: str | Path, generator: Generator, force: bool = False) -> dict[str, Direction]:
    """The directions in a file by name, or those of a bundled model.

    Besides our own, those of InterFaceGAN, SeFa, GANSpace and their users are read (`latentopt.editing.foreign`), told
    by content; they do not say which generator they are for, so they are taken by force only, and scaled to its
    samples. `force` takes another generator's directions too, as long as their dimensions fit.

    Raises CheckpointError, naming file and remedy; UntrustedFileError for pickled arrays, with how to save them again.
    """
    path = resolve(source, "directions")
    arrays = read_arrays(path, "directions")
    if is_foreign(arrays):
        return {d.name: d for d in read_foreign(path, generator, force, arrays)}
    directions = parse_directions(arrays.contents, arrays.metadata, str(path))
    for direction in directions:
        if force:
            direction.check_shape(generator, f"{path}: ")
        else:
            direction.check(generator, str(path))
    return {d.name: adopted(d, generator) for d in directions}


def adopted(direction: Direction, generator: Generator) -> Direction:
    """A direction as one of `generator`; what it was made for is kept on record."""
    if direction.fingerprint == generator.fingerprint:
        return direction
    forced = {"fingerprint": direction.fingerprint, "generator": direction.generator}
    about = direction.about | {"forced": forced}
    return replace(direction, fingerprint=generator.fingerprint, generator=generator.name, about=about)


def listed_directions(path: Path, generator: Callable[[], Generator]) -> tuple[list[Direction], bool]:
    """The directions in a file, to be shown, and whether it says which generator they are for.

    generator: gives the one whose latents they are for, where the file is another project's. Raises as
    `load_directions`, but for files of another generator.
    """
    arrays = read_arrays(path, "directions")
    if is_foreign(arrays):
        return read_foreign(path, generator(), force=True, arrays=arrays), False
    return parse_directions(arrays.contents, arrays.metadata, str(path)), True


def read_directions(path: Path) -> list[Direction]:
    """What `save_directions` wrote, of whichever generator. Raises CheckpointError, naming the file."""
    tensors, metadata = load_tensors(Path(path), STATISTICS_LIMIT)
    return parse_directions(tensors, metadata, str(path))


def parse_directions(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> list[Direction]:
    """The directions in the contents of a file. Raises CheckpointError, naming `where`."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{where}: its format is {metadata.get('format')!r}, not that of directions ({FORMAT!r})")
    try:
        entries = parse_json(metadata["directions"], dict[str, DirectionRecord])
        common: dict[str, Any] = {
            "fingerprint": metadata["fingerprint"],
            "generator": metadata.get("generator", "generator"),
        }
        return [Direction(name, vector=tensors[name], **common, **_fields(entry)) for name, entry in entries.items()]
    except (LatentoptError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where}: damaged directions: {reason}; find them again") from error


def _fields(entry: DirectionRecord) -> dict[str, Any]:
    """What a direction of this release has; a later one may write more."""
    return {name: value for name, value in entry.items() if name in FIELDS}


def given_or_found_directions(generator: Generator, files: Sequence[str | Path], force: bool) -> dict[str, Direction]:
    """The directions in `files` by name, the last of a name; or, where no file is given, all that are at hand.

    Raises as `load_directions` and `find_directions` do.
    """
    if not files:
        return find_directions(generator)
    found: dict[str, Direction] = {}
    for file in files:
        found |= load_directions(file, generator, force)
    return found


def find_directions(generator: Generator) -> dict[str, Direction]:
    """Every direction of `generator` that is at hand, by name; none is no error.

    The first of a name counts, in the order of `latentopt.statistics.at_hand`. Unreadable files are warned of, those of
    other generators passed over. Raises StatisticsError for an unreadable one beside the generator's own file.
    """
    found: dict[str, Direction] = {}
    for direction, _ in directions_at_hand(generator):
        found.setdefault(direction.name, direction)
    return found


def directions_at_hand(generator: Generator) -> Iterator[tuple[Direction, Path]]:
    """The directions of `generator` and their files, those that `find_directions` prefers first."""
    for directions, path in at_hand(DIRECTIONS, generator):
        yield from ((direction, path) for direction in directions)


def _read_own(path: Path, generator: Generator) -> list[Direction]:
    directions = read_directions(path)
    for direction in directions:
        direction.check(generator, str(path))
    return directions


DIRECTIONS = FileKind(
    "directions", FORMAT, "directions", str(FOLDER), ".safetensors", "directions find --method ganspace", _read_own
)


def describe_directions(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of such a file (see `latentopt.registry.FORMATS`)."""
    directions = parse_directions(checkpoint.contents, checkpoint.metadata, str(checkpoint.path))
    return {
        "kind": "directions for editing",
        "generator": checkpoint.metadata.get("generator"),
        "fingerprint": checkpoint.metadata.get("fingerprint"),
        "directions": {d.name: f"{d.space}, rows {layers_text(d.layers)}, {d.method}" for d in directions},
        "use": "latentopt edit (--directions FILE), with the generator of this fingerprint",
    }
