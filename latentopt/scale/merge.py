"""`latentopt merge`: the parts of a run as one, with what is missing. Needs no torch, and no memory for the results."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentopt.errors import CheckpointError, LatentoptError, UsageError
from latentopt.files.outputs import check_outdir, clear_write_errors
from latentopt.files.plan import read_plan
from latentopt.files.run_files import DELTA_FILE, RUN_FILES
from latentopt.files.shards import shards_in
from latentopt.files.writing import write_atomically
from latentopt.results.pages import write_pages, write_table
from latentopt.results.records import SummaryRecord, read_run
from latentopt.results.rows import Rows, failed_row, row_of
from latentopt.scale.packing import Packer, read_latent
from latentopt.watching.phases import phase

TITLE = "latentopt inversions, merged"
MANIFEST = "manifest.parquet"
LISTED = 20  # names of images that are missing or failed, in what is returned
ROW_GROUP = 10_000  # rows of the manifest that are held at once


@dataclass
class Merged:
    """What came of it: the merged rows by their status; `wrong`, the first names that failed or are missing with their
    reasons; `absent`, the folders of parts that are not there; notes; and the files.
    """

    into: Path
    rows: Rows
    wrong: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.absent and self.rows.status["ok"] == len(self.rows)


@dataclass(frozen=True)
class Part:
    """An output folder, its path from the folder that is written to, and why images failed there."""

    folder: Path
    link: str
    reasons: dict[str, str]


def merge(outs: Sequence[str | Path], into: str | Path) -> Merged:
    """Make one summary.csv, one index.html and packed results of output folders, or of the parts below them.

    Written are also latents-00000.safetensors, ... (`ws` [N,L,C], N up to 10,000) and manifest.parquet: a row an image,
    with its figures, its folder, and the file and the row of its latents. Pictures stay where they are; the index
    links to them.

    Raises UsageError for folders that are none and without pyarrow, CheckpointError where nothing is finished.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("merge writes a Parquet file: pip install 'latentopt[scale]'")
    into = Path(into)
    parts, absent = _parts([Path(out) for out in outs], into)
    check_outdir(into)
    names, twice = _names(parts)
    if not names:
        raise CheckpointError(f"{', '.join(map(str, outs))}: no results there; run latentopt invert first")
    found = Merged(into, Rows(), absent=absent)
    if twice:
        found.notes.append(f"{twice} images are in more than one folder: the first is taken")
    manifest, packer = Rows(), Packer(into)
    try:
        with phase("merging", len(names), "images") as advance:
            for name, number in names:
                _add(parts[number], name, found, manifest, packer)
                advance(1)
        packer.close()
    finally:
        packer.clean()
    if len(generators := {row["generator"] for row in manifest if row.get("generator")}) > 1:
        found.notes.append(f"results of {len(generators)} generators lie in these folders")
    found.files = [write_table(into, found.rows), write_pages(into, found.rows, TITLE)]
    found.files += [_write_manifest(into / MANIFEST, manifest), *sorted(into.glob("latents-*.safetensors"))]
    return found


def _parts(outs: Sequence[Path], into: Path) -> tuple[list[Part], list[str]]:
    """The folders of all parts, and those that should be there. Raises UsageError."""
    folders, absent = [], []
    for out in outs:
        if not out.is_dir():
            raise UsageError(f"{out}: no such folder")
        shards = list(shards_in(out))
        counts = {of for (_, of), _ in shards}
        if len(counts) > 1:
            raise UsageError(f"{out}: parts of {' and of '.join(map(str, sorted(counts)))}: remove those left over")
        there = {part for (part, _), _ in shards}
        absent += [f"{out}: part {i}/{of}" for of in counts for i in range(of) if i not in there]
        folders += [folder for _, folder in shards] or [out]
    links = [Path(os.path.relpath(folder, into)).as_posix() for folder in folders]
    pairs = zip(folders, links, strict=True)
    return [Part(folder, link, _reasons(folder / "summary.csv")) for folder, link in pairs], absent


def _reasons(summary: Path) -> dict[str, str]:
    """Why images failed, by a summary."""
    with suppress(FileNotFoundError), summary.open(newline="", encoding="utf-8", errors="replace") as stream:
        return {row["name"]: row["error"] or "" for row in csv.DictReader(stream) if row.get("status") == "failed"}
    return {}


def _names(parts: Sequence[Part]) -> tuple[list[tuple[str, int]], int]:
    """The names of all images in order, each with the number of its part; and how many were named twice."""
    place: dict[str, int] = {}
    count = 0
    for number, part in enumerate(parts):
        planned = read_plan(part.folder)
        for name in _results(part.folder) if planned is None else planned:
            place.setdefault(name, number)
            count += 1
        if planned is None:
            for name in part.reasons:
                count += name not in place
                place.setdefault(name, number)
    return sorted(place.items()), count - len(place)


def _results(root: Path) -> Iterator[str]:
    """The names of the finished results below a folder; folders of other runs in it are left out."""
    for folder, below, files in os.walk(root):
        if Path(folder) != root and "summary.csv" in files:
            below.clear()
        elif "run.json" in files:
            yield Path(folder).relative_to(root).as_posix()
        below[:] = sorted(name for name in below if not name.startswith("."))


def _add(part: Part, name: str, found: Merged, manifest: Rows, packer: Packer) -> None:
    """One image: its row, its latents, and its line of the manifest."""
    folder = part.folder / name
    link = name if part.link == "." else f"{part.link}/{name}"
    try:
        row, more = _finished(folder, name, packer)
    except CheckpointError as error:
        if name in part.reasons:
            row = failed_row(name, part.reasons[name])
        elif (folder / "run.json").exists():
            row = failed_row(name, str(error))
        else:
            row = failed_row(name, "no result: not begun, or not finished") | {"status": "missing"}
        more = {}
        if len(found.wrong) < LISTED:
            found.wrong[name] = str(row["error"])
    found.rows.add(row, link)
    manifest.add({**row, "folder": link, **more})


def _finished(folder: Path, name: str, packer: Packer) -> tuple[dict[str, object], dict[str, object]]:
    """The row of a result and what the manifest has beside it. Raises CheckpointError where it is not whole."""
    record: Any = read_run(folder, SummaryRecord)
    there = set(os.listdir(folder))  # noqa: PTH208 (names alone)
    lacking = [file for file in (*RUN_FILES, *([DELTA_FILE] if record.get("tuned") else ())) if file not in there]
    if lacking:
        raise CheckpointError(f"{folder}: lacks {lacking[0]}; invert the image again")
    data, shape, others = read_latent(folder / "inputs.safetensors")
    file, row = packer.add(data, shape)
    others += ["deltas"] if record.get("tuned") else []
    more = {"latents": file, "row": row, "beside": ",".join(others), "key": record["key"]}
    more |= {"source": record["source"]["path"], "sha256": record["source"]["sha256"], "seed": record["seed"]}
    more |= {"recipe": record["recipe"]["name"], "recipe_digest": record["recipe"]["digest"]}
    return row_of(name, record), more | {"generator": record["generator"]["fingerprint"]}


def _write_manifest(path: Path, rows: Rows) -> Path:
    """The rows as Parquet, some thousand at once."""
    import pyarrow
    from pyarrow import parquet

    kinds = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    types = {}
    for name, seen in rows.columns.items():
        known = seen - {type(None)}
        known = {float} if known == {int, float} else known
        types[name] = kinds.get(next(iter(known), str), pyarrow.string()) if len(known) == 1 else pyarrow.string()
    schema = pyarrow.schema(list(types.items()))

    def write(temporary: Path) -> None:
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _groups(rows):
                texts = [{k: _typed(v, types[k] == pyarrow.string()) for k, v in row.items()} for row in group]
                writer.write_table(pyarrow.Table.from_pylist(texts, schema))

    with clear_write_errors(path):
        try:
            write_atomically(path, write)
        except pyarrow.ArrowException as error:
            raise LatentoptError(f"{path}: could not be written: {error}") from error
    return path


def _groups(rows: Rows) -> Iterator[list[dict[str, Any]]]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


def _typed(value: object, as_text: bool) -> object:
    return str(value).encode("utf-8", "replace").decode() if as_text and value is not None else value
