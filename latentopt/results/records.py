"""The record of a result, run.json: what it has to hold, read and checked. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from latentopt.errors import CheckpointError
from latentopt.files.run_files import DELTA_FILE, RUN_FILES
from latentopt.files.schema import TEXT_LIMIT, conform, parse_json, read_text

SCHEMA = 1
RECORD_LIMIT = 16 << 20  # bytes of a run.json


class _SourceRecord(TypedDict):
    path: str
    sha256: str
    size: tuple[int, int]
    notes: list[str]


class SourceRecord(_SourceRecord, total=False):
    """The picture: its file as it was named, the hash of that, its size (H,W) before the fit, what was done to it, and
    `file`, where it lay.
    """

    file: str


class RecipeRecord(TypedDict):
    name: str
    digest: str


class _GeneratorRecord(TypedDict):
    name: str
    fingerprint: str


class GeneratorRecord(_GeneratorRecord, total=False):
    source: str  # what `load_generator` takes


Figures = dict[str, float | None]  # None: not a finite number


class StartRecord(TypedDict, total=False):
    """The result that a tuned one started from (`latentopt.inverting.tuning.tuned_from`)."""

    folder: str
    key: str
    recipe: RecipeRecord
    seed: int
    metrics: Figures
    seconds: Figures
    recipe_toml: str


class OptionsRecord(TypedDict, total=False):
    """What else decided the result."""

    fit: Literal["crop", "pad", "stretch"]
    alpha: Literal["composite", "mask"]


class CorruptionRecord(TypedDict):
    """How the corruption among the metrics was measured; of 0 pictures: not."""

    images: int
    extractor: str


class RefinerRecord(TypedDict):
    """The refiner that a result is drawn through.

    name, options: as in the recipe's stage; layer: where its residuals are; fingerprint: of its weights; files: what it
    was read from, where the recipe names it.
    """

    name: str
    options: dict[str, Any]
    layer: str
    fingerprint: str
    files: dict[str, str]


class _RunRecord(TypedDict):
    schema: int
    key: str
    source: SourceRecord
    recipe: RecipeRecord
    generator: GeneratorRecord
    seed: int
    seconds: Figures
    steps: int
    stop_reason: str
    metrics: Figures


class RunRecord(_RunRecord, total=False):
    """What run.json has to hold where it is read back: the first entries always, the others where it has them."""

    name: str
    tuned: bool
    statistics: dict[str, str]
    device: str
    dtype: str
    versions: dict[str, str]
    options: OptionsRecord
    networks: dict[str, str]
    noise_mode: str
    rank: int | None
    alignment: dict[str, Any]  # as `latentopt.faces.alignment.from_record` reads it
    encoder: dict[str, Any]
    refiner: RefinerRecord
    tuned_from: StartRecord
    corruption: CorruptionRecord
    changes: list[Figures]


class SummaryRecord(_RunRecord, total=False):
    """What a summary is made of: less to check, where there are very many results."""

    tuned: bool
    tuned_from: StartRecord


def read_run(folder: Path, expected: Any = RunRecord) -> RunRecord:
    """The run.json of a result. Raises CheckpointError where there is none, or one that cannot be read.

    expected: the entries that are checked.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no finished inversion there (no run.json); run latentopt invert first")
    text = read_entry(path, RECORD_LIMIT)
    record = parse_entry(text, Mapping[str, Any], path)
    if (schema := record.get("schema")) != SCHEMA:
        raise CheckpointError(f"{path}: schema {schema!r}; this latentopt reads {SCHEMA}")
    return cast(RunRecord, _conforming(record, expected, path))


def is_complete(folder: Path, key: str) -> bool:
    """Whether `folder` holds the finished result of exactly the run that `key` (manifest.run_key) names."""
    folder = Path(folder)
    try:
        run = read_run(folder)
    except CheckpointError:
        return False
    files = (*RUN_FILES, DELTA_FILE) if run.get("tuned") else RUN_FILES
    return run.get("key") == key and all((folder / name).is_file() for name in files)


def read_entry(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a result's file. Raises CheckpointError naming it."""
    try:
        return read_text(path, limit)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); invert the image again") from error


def parse_entry(text: str, expected: Any, path: Path) -> Any:
    """JSON of a result's file. Raises CheckpointError naming it."""
    return _conforming(text, expected, path, parse_json)


def _conforming(value: Any, expected: Any, path: Path, check: Callable[[Any, Any], Any] = conform) -> Any:
    try:
        return check(value, expected)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); invert the image again") from error
