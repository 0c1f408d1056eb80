"""The latents that edits start from, as they lie on disk: results, saved inputs, and NVIDIA's `projected_w.npz`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.npz import load_projected_w
from latentopt.errors import CheckpointError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import load_tensors
from latentopt.pictures.images import DELTA_FILE, save_png
from latentopt.protocols import Generator
from latentopt.results.earlier import EarlierResult, find_results
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs

LONGEST_NAME = 120  # characters


@dataclass(frozen=True, eq=False)
class Latent:
    """One image's latents: `inputs` of a batch of 1; target [3,H,W] where it is known; folder of its tuned weights."""

    name: str
    inputs: GeneratorInputs
    target: Tensor | None = None
    noise_mode: str = "const"
    delta: Path | None = None


@dataclass(frozen=True)
class Source:
    """Where latents lie, before they are read; `generator` is what is on record of the one they are for."""

    path: Path
    name: str
    generator: Mapping[str, Any] = field(default_factory=dict)


def result_sources(results: Sequence[EarlierResult]) -> list[Source]:
    """Where the latents of earlier results lie: the folders of the results."""
    return [Source(result.folder, result.name, result.record.get("generator", {})) for result in results]


def find_sources(path: Path) -> list[Source]:
    """The results in or below a folder; or a file of saved inputs or of projected w. Raises CheckpointError."""
    path = Path(path)
    if path.is_dir():
        return result_sources(find_results(path))
    if path.suffix == ".npz":
        return [Source(path, path.stem)]
    return [Source(path, path.stem, load_tensors(path)[1])]


def check_source(source: Source, generator: Generator) -> None:
    """Raise CheckpointError where the latents are on record as another generator's."""
    made_for = source.generator.get("fingerprint")
    if made_for not in (None, "", generator.fingerprint):
        raise CheckpointError(
            f"{source.path}: latents of generator {source.generator.get('name')!r} ({made_for}), not of "
            f"{generator.name!r} ({generator.fingerprint}); name theirs with --network"
        )


def read_latent(source: Source, generator: Generator) -> Latent:
    """Raises CheckpointError for latents of another generator or another shape."""
    check_source(source, generator)
    if source.path.is_dir():
        inversion = Inversion.load(source.path)
        mode = inversion.manifest.get("noise_mode", "const")
        delta = source.path / DELTA_FILE if inversion.inputs.deltas is not None else None
        return Latent(source.name, inversion.inputs, inversion.target, "none" if mode == "none" else "const", delta)
    if source.path.suffix == ".npz":
        inputs = GeneratorInputs(load_projected_w(source.path))
    else:
        inputs = GeneratorInputs.load(source.path)
    if tuple(inputs.ws.shape) != (1, generator.num_ws, generator.w_dim):
        raise CheckpointError(
            f"{source.path}: ws are {list(inputs.ws.shape)}; {generator.name!r} takes "
            f"{[1, generator.num_ws, generator.w_dim]}"
        )
    delta = source.path.with_name(DELTA_FILE)
    if inputs.deltas is None and delta.is_file():
        inputs = inputs.replace(deltas=Delta.load(delta, generator).deltas())
    return Latent(source.name, inputs, delta=delta if delta.is_file() else None)


def save_latent(path: Path, image: Tensor, inputs: GeneratorInputs, generator: Generator) -> None:
    """Write <path>.png and <path>.safetensors, which the commands that edit take as a start."""
    metadata = {"fingerprint": generator.fingerprint, "name": generator.name, "source": generator.source}
    save_png(path.with_name(f"{path.name}.png"), image)
    file = path.with_name(f"{path.name}.safetensors")
    with clear_write_errors(file):
        inputs.save(file, metadata)


def file_name(text: str) -> str:
    """`text` as the name of a file: letters, digits and a few signs, of bounded length."""
    return re.sub(r"[^\w.+@,=-]", "-", text)[:LONGEST_NAME].lstrip(".") or "edit"


def distinct(sources: Sequence[Source]) -> list[Source]:
    """The same, with names that differ. Raises UsageError where there is none."""
    if not sources:
        raise UsageError("no latents to work on; name the folder of an inversion")
    names: dict[str, int] = {}
    found = []
    for source in sources:
        count = names[source.name] = names.get(source.name, 0) + 1
        found.append(source if count == 1 else Source(source.path, f"{source.name}-{count}", source.generator))
    return found
