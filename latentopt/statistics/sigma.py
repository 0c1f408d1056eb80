"""Sigma: how far each weight of a generator may be moved (Sevriugov and Oseledets, "WRanGAN", section 3).

A tuned generator has the weights `mu + sigma * epsilon`, epsilon ~ N(0,1) a priori. Sigma is learned with the generator
(`latentopt train wrangan`) or estimated from its samples (`latentopt fit-sigma`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.checkpoints.model_files import Checkpoint
from latentopt.errors import CheckpointError, StatisticsError
from latentopt.files.schema import parse_json
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.files.text import to_run
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import FileKind

FORMAT = "latentopt-sigma-1"
ORIGINS = ("learned", "estimated")
FOLDER = Path("sigma")  # in the working directory: where `latentopt fit-sigma` writes


@dataclass(frozen=True, eq=False)
class Sigma:
    """One scale for each chosen weight of one generator; float32 on the CPU.

    tensors      {weight: [*shape]}, finite and >= 0, in units of the stored weight; names as in `generator.tunable`
    origin       "learned" (with the generator) or "estimated" (from its samples)
    fingerprint  the generator whose weights they scale
    base         fingerprint of the generator that the training of that one started from, or None
    card         how they were made, and what was measured

    Raises StatisticsError for values that cannot be such.
    """

    tensors: dict[str, Tensor]
    origin: str
    fingerprint: str
    base: str | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise StatisticsError(f"the origin of sigma is {' or '.join(ORIGINS)}, not {self.origin!r}")
        if not self.tensors:
            raise StatisticsError("sigma names no weight")
        values = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in self.tensors.items()}
        for name, tensor in values.items():
            if not tensor.isfinite().all():
                raise StatisticsError(f"sigma of {name} holds values that are not finite")
            if (tensor < 0).any():
                raise StatisticsError(f"sigma of {name} holds negative values")
        object.__setattr__(self, "tensors", values)

    def belongs_to(self, generator: Generator) -> bool:
        """Whether these scale the weights of `generator`, or of what was trained from it."""
        return generator.fingerprint in (self.fingerprint, self.base)

    def save(self, path: Path) -> None:
        """Write a safetensors file (a tensor a weight; the rest as metadata), atomically."""
        metadata = {"format": FORMAT, "origin": self.origin, "fingerprint": self.fingerprint}
        if self.base is not None:
            metadata["base"] = self.base
        save_tensors(Path(path), self.tensors, {**metadata, "card": json.dumps(self.card)})

    @staticmethod
    def load(path: Path, generator: Generator | None = None, force: bool = False) -> Sigma:
        """Read what `save` wrote.

        With a generator given, another one's are refused; its own are those with its fingerprint as `fingerprint` or
        `base`. `force` takes others too, as long as the generator has weights of these names and shapes.

        Raises StatisticsError, naming file and remedy.
        """
        path = Path(path)
        try:
            tensors, metadata = load_tensors(path)
        except CheckpointError as error:
            text = str(error).removeprefix(f"{path}: ")
            raise StatisticsError(f"{path}: not a usable sigma file: {text}") from error
        sigma = parse_sigma(tensors, metadata, str(path))
        if generator is not None:
            _check_fits(sigma, path, generator, force)
        return sigma


def parse_sigma(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str) -> Sigma:
    """A sigma from the contents of its file. Raises StatisticsError, naming `path`, for damaged ones."""
    try:
        if metadata.get("format") != FORMAT:
            raise StatisticsError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        card = parse_json(metadata.get("card", "{}"), dict[str, Any])
        return Sigma(dict(tensors), metadata["origin"], metadata["fingerprint"], metadata.get("base"), card)
    except (StatisticsError, KeyError, ValueError) as error:
        text = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise StatisticsError(f"{path}: not a usable sigma file: {text}") from error


def _check_fits(sigma: Sigma, path: Path, generator: Generator, force: bool = False) -> None:
    if not force and not sigma.belongs_to(generator):
        raise StatisticsError(
            f"{path}: sigma of another generator ({sigma.fingerprint}), not of {generator.name!r} "
            f"({generator.fingerprint}); run {to_run('fit-sigma', generator.source)}"
        )
    for name, tensor in sigma.tensors.items():
        shape = generator.tunable.get(name)
        if shape is None:
            raise StatisticsError(f"{path}: sigma of {name}, which {generator.name!r} does not have")
        if tuple(tensor.shape) != tuple(shape):
            raise StatisticsError(
                f"{path}: sigma of {name} is {list(tensor.shape)}; {generator.name!r} has {list(shape)} there"
            )


SIGMA = FileKind("sigma", FORMAT, "sigma", str(FOLDER), ".safetensors", "fit-sigma", Sigma.load)


def describe_sigma(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of such a file (see `latentopt.registry.FORMATS`)."""
    sigma = parse_sigma(checkpoint.contents, checkpoint.metadata, str(checkpoint.path))
    return {
        "kind": "sigma: how far weights may be moved",
        "origin": sigma.origin,
        "fingerprint": sigma.fingerprint,
        "base": sigma.base,
        "weights": len(sigma.tensors),
        "values": sum(x.numel() for x in sigma.tensors.values()),
        "medians": {name: float(x.median()) for name, x in sigma.tensors.items()},
        "card": sigma.card,
        "use": "tuning with the epsilon space, for the generator with this fingerprint (or, less exactly, base)",
    }
