"""Labels for finding directions: read by the judge, from a table, or given by two folders.

n samples, A attributes.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentopt.errors import CheckpointError, UsageError
from latentopt.files.kinds import check_file, kind_of, refusal
from latentopt.pictures.channels import in_colour
from latentopt.protocols import Generator
from latentopt.results.earlier import find_results
from latentopt.results.inversion import Inversion
from latentopt.statistics.sampling import one_hot
from latentopt.types import GeneratorInputs

SEED_PICTURE = re.compile(r"seed(\d{1,10})(?:\.png)?", re.IGNORECASE)  # as latentopt sample names its pictures


class Reader(Protocol):
    """What reads attributes off pictures: the judge, or another network like it."""

    def read(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> [B,A]."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Latents and what is known of their pictures.

    codes       [n,C] or [n,L,C]
    names       the attributes
    values      [n,A]; nan where not known
    thresholds  the value at which an attribute's two classes part; the others' are their lowest and highest samples
    about       where the labels come from
    """

    codes: Tensor
    names: tuple[str, ...]
    values: Tensor
    thresholds: Mapping[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


@torch.no_grad()
def read_labels(
    generator: Generator,
    codes: Tensor,
    reader: Reader,
    names: Sequence[str],
    binary: Sequence[str] = (),
    *,
    batch: int = 50,
    on_progress: Callable[[int], object] | None = None,
    **about: object,
) -> Labelled:
    """Draw `codes` [n,C] or [n,L,C] and read `names` off the pictures.

    Those in `binary` are probabilities, parted at 0.5.
    """
    values = []
    for part in codes.split(batch):
        ws = part if part.ndim == 3 else generator.broadcast(part)
        values.append(reader.read(in_colour(generator.synthesis(GeneratorInputs(ws)).float().clamp(-1, 1))).cpu())
        if on_progress is not None:
            on_progress(len(part))
    return Labelled(codes.cpu(), tuple(names), torch.cat(values), dict.fromkeys(binary, 0.5), about)


def table_labels(
    path: Path, generator: Generator, run: Path | None = None, psi: float = 1.0, label: int = 0
) -> Labelled:
    """Labels of a CSV: the first column names pictures, the others are attributes, empty cells not known.

    A picture is `seed0012.png`, one of `latentopt sample --trunc psi`, or the name of a result of `run`. An attribute
    of two different values has its classes at these, others at their lowest and highest.
    Raises CheckpointError and UsageError, naming the file.
    """
    header, rows = _read_table(path)
    values = torch.tensor([[_number(cell, path, row[0]) for cell in row[1:]] for row in rows]).reshape(len(rows), -1)
    thresholds = {}
    for name, column in zip(header[1:], values.unbind(1), strict=True):
        levels = column[column.isfinite()].unique()
        if len(levels) == 2:
            thresholds[name] = float(levels.mean())
    codes = codes_of([row[0] for row in rows], generator, run, psi, label)
    return Labelled(codes, tuple(header[1:]), values, thresholds, {"labels": path.name})


def folder_labels(
    more: Path, less: Path, generator: Generator, name: str, psi: float = 1.0, label: int = 0
) -> Labelled:
    """One attribute: pictures in `more` have it, those in `less` do not.

    A folder holds inversions, or pictures of `latentopt sample --trunc psi` under their own names.
    Raises CheckpointError and UsageError, naming the folder.
    """
    codes = [_folder_codes(folder, generator, psi, label) for folder in (more, less)]
    values = torch.cat([torch.ones(len(codes[0]), 1), torch.zeros(len(codes[1]), 1)])
    about = {"labels": f"folders {more.name} and {less.name}"}
    return Labelled(_joined(codes, generator), (name,), values, {name: 0.5}, about)


def codes_of(names: Sequence[str], generator: Generator, run: Path | None, psi: float = 1.0, label: int = 0) -> Tensor:
    """The latents of samples `seedNNNN` and of results of `run` by name: [n,C], or [n,L,C] with results among them."""
    results = {} if run is None else {result.name: result.folder for result in find_results(run)}
    parts = []
    for name in names:
        stem = name.removesuffix(".png")
        if match := SEED_PICTURE.fullmatch(name):
            parts.append(seed_codes(generator, [int(match[1])], psi, label))
        elif name in results or stem in results:
            parts.append(_result_code(results[name if name in results else stem], generator))
        else:
            raise UsageError(
                f"{name!r} is neither a sample (seed0012.png) nor an inversion of --run {run or ''}".rstrip()
            )
    return _joined(parts, generator)


def seed_codes(generator: Generator, seeds: Sequence[int], psi: float = 1.0, label: int = 0) -> Tensor:
    """The w [n,C] of `latentopt sample --seeds ... --trunc psi`. Raises UsageError for a label that is not there."""
    draws = np.concatenate([np.random.RandomState(seed % 2**32).randn(1, generator.z_dim) for seed in seeds])
    z = torch.from_numpy(draws).to(generator.device, torch.float32)  # [n,Z]
    with torch.no_grad():
        w = generator.mapping(z, one_hot(generator, label, len(z)))
        return torch.lerp(generator.w_avg.expand_as(w), w, psi)


def _folder_codes(folder: Path, generator: Generator, psi: float, label: int) -> Tensor:
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: no such folder")
    if next(Path(folder).rglob("run.json"), None) is not None:
        return _joined([_result_code(result.folder, generator) for result in find_results(folder)], generator)
    names = sorted(path.name for path in Path(folder).iterdir() if path.suffix.lower() == ".png")
    matches = [SEED_PICTURE.fullmatch(name) for name in names]
    unknown = [name for name, match in zip(names, matches, strict=True) if match is None]
    if unknown or not names:
        found = f"{unknown[0]} is not one of them" if unknown else "it has none"
        raise UsageError(f"{folder}: holds inversions, or pictures seed0012.png of latentopt sample; {found}")
    return seed_codes(generator, [int(match[1]) for match in matches if match is not None], psi, label)


def _result_code(folder: Path, generator: Generator) -> Tensor:
    inversion = Inversion.load(folder)
    inversion.check_generator(generator)
    return inversion.inputs.ws  # [1,L,C]


def _joined(parts: Sequence[Tensor], generator: Generator) -> Tensor:
    if len({part.ndim for part in parts}) == 2:
        parts = [part if part.ndim == 3 else generator.broadcast(part) for part in parts]
    return torch.cat([part.cpu().float() for part in parts])


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    wanted = "a table of labels (CSV)"
    if (kind := kind_of(check_file(path, wanted))).name != "text":
        raise CheckpointError(refusal(path, wanted, kind))
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            lines = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{path}: not a readable table ({error})") from error
    if len(lines) < 2 or len(lines[0]) < 2 or not all(lines[0][1:]) or len(set(lines[0])) != len(lines[0]):
        raise CheckpointError(f"{path}: expected a first line `name,attribute,...` and one line a picture")
    for number, row in enumerate(lines[1:], 2):
        if len(row) != len(lines[0]):
            raise CheckpointError(f"{path}: row {number} has {len(row)} cells, the first line {len(lines[0])}")
    return lines[0], lines[1:]


def _number(cell: str, path: Path, name: str) -> float:
    try:
        value = float(cell) if cell else math.nan
    except ValueError:
        raise CheckpointError(
            f"{path}: {name}: {cell!r} is no number; leave a cell empty where it is not known"
        ) from None
    if math.isinf(value):
        raise CheckpointError(f"{path}: {name}: {cell!r} is not finite")
    return value
