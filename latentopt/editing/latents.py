"""The latents that edits start from, as they lie on disk: results, saved inputs, and files of other tools."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.delta_files import check_fit
from latentopt.checkpoints.latent_files import check_made_with, read_latents
from latentopt.checkpoints.saved_inputs import check_inputs
from latentopt.errors import CheckpointError, LatentoptError, UntrustedFileError, UsageError
from latentopt.files.kinds import check_file, kind_of
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import load_metadata
from latentopt.pictures.images import DELTA_FILE, save_png
from latentopt.protocols import Generator
from latentopt.results.earlier import WRITTEN, EarlierResult, find_results
from latentopt.results.inversion import REFINED, Inversion
from latentopt.results.redrawing import Redraw, redraw_of
from latentopt.types import GeneratorInputs

LONGEST_NAME = 120  # characters
TELLING = 8  # of them, where a longer name is cut
SUFFIXES = (".safetensors", ".npz", ".npy", ".pt", ".pth")  # looked for in a folder without results


@dataclass(frozen=True, eq=False)
class Latent:
    """One image's latents: `inputs` of a batch of 1; target [3,H,W] where it is known; folder of its tuned weights.

    refined: what edits of it are drawn through, where its result has a refiner; `inputs` are then without what that
    added. result: the folder of that result, which edits of it remember. note: what its user should be told.
    """

    name: str
    inputs: GeneratorInputs
    target: Tensor | None = None
    noise_mode: str = "const"
    delta: Path | None = None
    refined: Redraw | None = None
    result: Path | None = None
    note: str = ""

    @property
    def redraw(self) -> Redraw:
        """What stands between edits of the inputs and the generator."""
        return Redraw(self.inputs) if self.refined is None else self.refined


@dataclass(frozen=True)
class Source:
    """Where latents lie: a result's folder, or a file; `generator` is what is on record of the one they are for.

    A file may hold several images. `open_sources` makes one source of each, with its `inputs`; `delta` is the file
    beside it that their tuned weights are from, where it has none itself. `among`: the file was not named, but lies in
    a folder that was.
    """

    path: Path
    name: str
    generator: Mapping[str, Any] = field(default_factory=dict)
    inputs: GeneratorInputs | None = None
    among: bool = False
    delta: Path | None = None


def result_sources(results: Sequence[EarlierResult]) -> list[Source]:
    """Where the latents of earlier results lie: the folders of the results."""
    return [Source(result.folder, result.name, result.record.get("generator", {})) for result in results]


def find_sources(path: Path) -> list[Source]:
    """The results in or below a folder or, where it has none, the files of latents there; or the file that is named,
    ours or another tool's (`latentopt.checkpoints.latent_files`). Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_dir():
        return [_file_source(check_file(path, "latents"), path.stem)]
    if next(path.rglob("run.json"), None) is None and (files := _latent_files(path)):
        named = [_file_source(file, file.relative_to(path).with_suffix("").as_posix()) for file in files]
        return [replace(source, among=True) for source in named]
    return result_sources(find_results(path))


def _latent_files(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    return sorted(file for file in files if not WRITTEN & set(file.relative_to(folder).parts[:-1]))


def _file_source(path: Path, name: str) -> Source:
    return Source(path, name, load_metadata(path) if kind_of(path).name == "safetensors" else {})


def open_sources(
    sources: Sequence[Source], generator: Generator, on_note: Callable[[str], object] = lambda text: None
) -> list[Source]:
    """One source an image, files read, with names that differ. on_note: called with what was left out of a file.

    Raises CheckpointError for latents of another generator or another shape, and for files that hold none;
    UntrustedFileError for pickled ones.
    """
    found: list[Source] = []
    for source in sources:
        if source.path.is_dir():
            check_source(source, generator)
            found.append(source)
            continue
        try:
            held = read_latents(source.path, generator, partial(check_made_with, str(source.path), generator=generator))
        except (CheckpointError, UntrustedFileError) as error:
            if not source.among or (source is sources[-1] and not found):
                raise
            on_note(f"left out: {error}")
            continue
        for note in held.notes:
            on_note(note)
        beside = source.path.with_name(DELTA_FILE)
        for i, (name, inputs) in enumerate(held.images):
            delta = beside if inputs.deltas is None and beside.is_file() else None
            if delta is not None:
                inputs = inputs.replace(deltas=Delta.load(delta, generator).deltas())
            own = file_name(name) if name else source.name if len(held.images) == 1 else f"{source.name}-{i}"
            found.append(Source(source.path, own, source.generator, inputs, delta=delta))
    return distinct(found)


def check_source(source: Source, generator: Generator) -> None:
    """Raise CheckpointError where the latents are on record as another generator's."""
    check_made_with(str(source.path), source.generator, generator)


def read_latent(source: Source, generator: Generator) -> Latent:
    """The one image of a source. Raises CheckpointError for latents of another generator or another shape, and for a
    file that holds several images (`open_sources`).
    """
    check_source(source, generator)
    if source.path.is_dir():
        inversion = Inversion.load(source.path)
        delta = source.path / DELTA_FILE if inversion.manifest.get("tuned") else None
        _check_result(inversion, delta, generator, source.path / "inputs.safetensors")
        mode = inversion.manifest.get("noise_mode", "const")
        latent = Latent(source.name, inversion.base, inversion.target, "none" if mode == "none" else "const", delta)
        if "refiner" not in inversion.manifest:
            return latent
        return replace(latent, refined=redraw_of(inversion, generator), result=source.path)
    if source.inputs is None:
        images = open_sources([source], generator)
        if len(images) != 1 or images[0].inputs is None:
            raise CheckpointError(f"{source.path}: holds {len(images)} latents; open them as several (open_sources)")
        source = replace(source, inputs=images[0].inputs, delta=images[0].delta)
    assert source.inputs is not None
    latent = Latent(source.name, source.inputs, delta=source.delta)
    return _refined(latent, source, generator) if REFINED in source.generator else latent


def _check_result(inversion: Inversion, delta: Path | None, generator: Generator, file: Path) -> None:
    """Raise CheckpointError, naming the `file` of inputs or that of tuned weights, for what does not fit."""
    held = inversion.inputs
    if delta is not None:
        check_fit({name: tuple(x.shape[1:]) for name, x in (held.deltas or {}).items()}, generator, str(delta))
        held = held.replace(deltas=None)
    check_inputs(held, generator, str(file))


def _refined(latent: Latent, source: Source, generator: Generator) -> Latent:
    """Latents from a file that an edit of a refined result wrote: drawn through that result's refiner again."""
    folder = source.path.parent / str(source.generator[REFINED])
    try:
        inversion = Inversion.load(folder)
        inversion.check_generator(generator)
        redraw = redraw_of(inversion, generator)
    except LatentoptError as error:
        reason = f"{latent.name}: what its refiner added is kept as it is, and does not move with edits: {error}"
        return replace(latent, note=reason)
    if redraw.refiner is None:
        return latent
    inputs = latent.inputs.without_residual(redraw.refiner.layer)
    return replace(latent, inputs=inputs, refined=redraw, result=folder, noise_mode=redraw.noise_mode)


def save_latent(
    path: Path, image: Tensor, inputs: GeneratorInputs, generator: Generator, result: Path | None = None
) -> None:
    """Write <path>.png and <path>.safetensors, which the commands that edit take as a start.

    result: the folder of the result whose refiner draws them.
    """
    metadata = {"fingerprint": generator.fingerprint, "name": generator.name, "source": generator.source}
    if result is not None:
        metadata[REFINED] = os.path.relpath(result, path.parent)
    save_png(path.with_name(f"{path.name}.png"), image)
    file = path.with_name(f"{path.name}.safetensors")
    with clear_write_errors(file):
        inputs.save(file, metadata)


def file_name(text: str) -> str:
    """`text` as the name of a file: letters, digits and a few signs, of bounded length. What is cut off is told by a
    hash, so that names which differ only there stay apart.
    """
    name = re.sub(r"[^\w.+@,=-]", "-", text)
    if len(name) > LONGEST_NAME:
        told = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:TELLING]
        name = f"{name[: LONGEST_NAME - TELLING - 1]}-{told}"
    return name.lstrip(".") or "edit"


def distinct(sources: Sequence[Source]) -> list[Source]:
    """The same, with names that differ. Raises UsageError where there is none."""
    if not sources:
        raise UsageError("no latents to work on; name the folder of an inversion")
    names: dict[str, int] = {}
    found = []
    for source in sources:
        count = names[source.name] = names.get(source.name, 0) + 1
        found.append(source if count == 1 else replace(source, name=f"{source.name}-{count}"))
    return found
