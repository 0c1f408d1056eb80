"""Refiners in files: our safetensors, the bundled ones by name, and StyleRes's released checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from latentopt.checkpoints.describe import described_card
from latentopt.checkpoints.model_files import Checkpoint, read_checkpoint
from latentopt.checkpoints.trained_files import trained_file
from latentopt.checkpoints.weights import looks_like
from latentopt.errors import CheckpointError
from latentopt.files.schema import parse_json
from latentopt.perceptual.network_file import load_network, save_network
from latentopt.protocols import Generator
from latentopt.refiners import KINDS
from latentopt.refiners.config import RefinerConfig
from latentopt.refiners.network import RefinerNet, TrainedRefiner
from latentopt.refiners.official import is_styleres, styleres_refiner

FORMAT = "latentopt-refiner-1"


def save_refiner(refiner: TrainedRefiner, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a safetensors file that `load_refiner` reads; dtype: of the weights, float16 halves the file."""
    net = copy.deepcopy(refiner.net).to(dtype)
    save_network(Path(path), net, refiner.config, refiner.card, FORMAT, generator=refiner.generator)


def load_refiner(source: str | Path, generator: Generator | None = None, *, force: bool = False) -> TrainedRefiner:
    """A refiner from a file, or the bundled one of that kind (`warpres`) for `generator`.

    It is in evaluation mode, without gradients, on the CPU. Given a generator, the refiner is checked against it and
    moved to its device; one that was trained for another generator is refused, unless `force`.
    Raises MissingWeightsError where no refiner of that name is bundled, CheckpointError for files of another kind,
    damaged ones and ones that do not fit, UntrustedFileError for files that ask for code to be run.
    """
    path = refiner_path(source, generator)
    refiner = refiner_from(read_checkpoint(path), str(source))
    if generator is None:
        return refiner
    refiner.check_generator(generator, force)
    return refiner.to(generator.device)


def refiner_path(source: str | Path, generator: Generator | None = None) -> Path:
    """The file that `source` means: a kind's name stands for a bundled refiner, `./warpres` for a file.

    Raises MissingWeightsError or CheckpointError where there is none.
    """
    return trained_file(source, "refiner", KINDS, generator)


def refiner_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The file that a refiner is read from (a finder of `latentopt.registry.FILES`): the named, or the bundled one."""
    return [refiner_path(named or str(part["name"]), generator)]


def refiner_from(checkpoint: Checkpoint, name: str) -> TrainedRefiner:
    """The refiner of a file that was read. Raises CheckpointError."""
    path = str(checkpoint.path)
    if checkpoint.format == "torch" and is_styleres(checkpoint.contents):
        return styleres_refiner(checkpoint.contents, path, name)
    if (found := checkpoint.metadata.get("format", "")) != FORMAT:
        kind = f"a file of format {found}" if found else f"it looks like {looks_like(checkpoint.contents)}"
        raise CheckpointError(f"{path}: no refiner: {kind}; expected {FORMAT}, or StyleRes's .pt")
    net = load_network(checkpoint.path, FORMAT, "a refiner", RefinerConfig, RefinerNet)
    try:
        card = parse_json(checkpoint.metadata.get("card", "{}"), dict[str, Any])
    except ValueError as error:
        raise CheckpointError(f"{path}: its card cannot be read ({error}); the file is damaged") from error
    return TrainedRefiner(net, checkpoint.metadata.get("generator", ""), name, card)


def describe_refiner(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of a refiner's file (see `latentopt.registry.FORMATS`)."""
    refiner = refiner_from(checkpoint, name)
    config = refiner.config
    return {
        "kind": f"{config.kind} refiner",
        "form": config.form,
        "layer": config.tap.name,
        "channels": config.tap.channels,
        "size": list(config.tap.size),
        "image_size": list(config.image_size),
        "reads": list(config.layers),
        "reader": config.reader,
        "parameters": sum(parameter.numel() for parameter in refiner.net.parameters()),
        "generator": refiner.generator,
        "fingerprint": refiner.fingerprint,
        **described_card(checkpoint),
        "use": "latentopt encode, invert (--refine FILE)",
    }
