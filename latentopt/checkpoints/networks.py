"""Generators and discriminators from files of any kind, told apart by content, and back to files.

Read: NVIDIA snapshots (.pkl), whole networks saved by PTI (.pt), rosinality's .pt, encoder files with a decoder, our
safetensors. A bundled model goes by its name. Nothing in a file is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentopt.checkpoints import nvidia, rosinality
from latentopt.checkpoints.model_files import Checkpoint, Source, bundled_path, read_checkpoint, resolve
from latentopt.checkpoints.persistence import Record, plain_entries
from latentopt.checkpoints.weights import (
    FILTER,
    W_AVG_SAMPLES,
    NetworkWeights,
    build,
    estimate_w_avg,
    looks_like,
    single_filter,
)
from latentopt.errors import CheckpointError
from latentopt.files.storage import save_tensors, write_atomically
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config

GENERATOR_FORMAT, DISCRIMINATOR_FORMAT = "latentopt-generator-1", "latentopt-discriminator-1"

__all__ = [
    "bundled_path",
    "load_discriminator",
    "load_generator",
    "save_discriminator",
    "save_generator",
    "save_rosinality",
]

Kind = Literal["generator", "discriminator"]


def load_generator(
    source: Source, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> StyleGAN2:
    """A generator from a file or the name of a bundled one: evaluation mode, no gradients, images [B,3,H,W].

    `generator.notes` says what the file lacked and what was put in its place (noise maps, w_avg); `generator.card` is what
    is known about the training. Raises CheckpointError for files of another kind or with weights that do not fit,
    UntrustedFileError for a pickle that asks for code to be run.
    """
    path = resolve(source)
    return generator_from(read_checkpoint(path), str(source)).to(device=device, dtype=dtype)


def generator_from(checkpoint: Checkpoint, name: str) -> StyleGAN2:
    """The generator of a file that was read. Raises CheckpointError."""
    weights = network_weights(checkpoint, "generator")
    notes, card = weights.notes, card_of(checkpoint)
    lacks_w_avg = checkpoint.format != "safetensors" and "mapping.w_avg" not in weights.state
    if lacks_w_avg:
        weights.state["mapping.w_avg"] = torch.zeros(weights.config.w_dim)
    generator = build(weights, str(checkpoint.path))
    if lacks_w_avg:
        generator.w_avg.copy_(estimate_w_avg(generator))
        notes += (f"the file has no mean of w: estimated from {W_AVG_SAMPLES:,} samples (seed 0)",)
    generator.name, generator.source = Path(name).stem, name
    generator.notes, generator.card = notes, card
    return generator


def load_discriminator(
    source: Source, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Discriminator:
    """A discriminator from a file (`D` of a snapshot, `d` of rosinality's, our safetensors) or a bundled one's name.

    Evaluation mode, no gradients. Raises CheckpointError and UntrustedFileError as `load_generator`.
    """
    checkpoint = read_checkpoint(resolve(source, "discriminator"))
    return build(network_weights(checkpoint, "discriminator"), str(checkpoint.path)).to(device=device, dtype=dtype)


def network_weights(checkpoint: Checkpoint, kind: Kind) -> NetworkWeights:
    """Configuration and weights of a file's generator or discriminator. Raises CheckpointError when it has none."""
    reader = {"nvidia": _from_nvidia, "torch": _from_torch, "safetensors": _from_safetensors}[checkpoint.format]
    return reader(checkpoint, kind)


def _from_nvidia(checkpoint: Checkpoint, kind: Kind) -> NetworkWeights:
    path, contents = str(checkpoint.path), checkpoint.contents
    record = contents.get("G_ema" if kind == "generator" else "D")
    if not isinstance(record, Record):
        held = ", ".join(str(key) for key, value in contents.items() if isinstance(value, Record)) or "none"
        raise CheckpointError(f"{path}: a pickle without a {kind} (networks in it: {held})")
    return nvidia.generator_weights(record, path) if kind == "generator" else nvidia.discriminator_weights(record, path)


def _from_torch(checkpoint: Checkpoint, kind: Kind) -> NetworkWeights:
    path, contents = str(checkpoint.path), checkpoint.contents
    if kind == "discriminator":
        if not isinstance(contents.get("d"), dict):
            raise CheckpointError(f"{path}: no discriminator in it: {_holds(contents)}")
        return rosinality.discriminator_weights(contents["d"], path)
    average = contents.get("latent_avg")
    average = average if isinstance(average, Tensor) else None
    if isinstance(contents.get("g_ema"), dict):
        return rosinality.generator_weights(contents["g_ema"], average, path)
    decoder = _decoder(contents)
    if not decoder:
        raise CheckpointError(f"{path}: no generator in it: {_holds(contents)}")
    weights = rosinality.generator_weights(decoder, average, path)
    note = "the generator is the decoder of an encoder's checkpoint"
    return NetworkWeights(weights.config, weights.state, weights.resample_filter, (note, *weights.notes))


def _decoder(contents: Mapping[str, Any]) -> dict[str, Any]:
    """The `decoder.*` weights of a pSp, e4e or ReStyle checkpoint."""
    state = contents.get("state_dict")
    if not isinstance(state, dict):
        return {}
    return {key.removeprefix("decoder."): value for key, value in state.items() if str(key).startswith("decoder.")}


def _holds(contents: Mapping[str, Any]) -> str:
    """What a torch file holds, in words."""
    for key in ("state_dict", "model", "g_ema", "g", "d"):
        if isinstance(contents.get(key), dict):
            return f"{key!r} in it looks like {looks_like([str(k) for k in contents[key]])}"
    return f"it looks like {looks_like([str(key) for key in contents])}"


def _from_safetensors(checkpoint: Checkpoint, kind: Kind) -> NetworkWeights:
    path, metadata, state = str(checkpoint.path), checkpoint.metadata, dict(checkpoint.contents)
    wanted = GENERATOR_FORMAT if kind == "generator" else DISCRIMINATOR_FORMAT
    if (found := metadata.get("format", "")) != wanted:
        if found.startswith("latentopt-"):
            raise CheckpointError(f"{path}: a file of format {found}, where a {kind} is asked for ({wanted})")
        raise CheckpointError(f"{path}: a safetensors file, but no latentopt {kind}; it looks like {looks_like(state)}")
    try:
        config = (StyleGAN2Config if kind == "generator" else DiscriminatorConfig).from_json(metadata["config"])
        notes = tuple(str(note) for note in json.loads(metadata.get("notes", "[]")))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be read ({error!r}); the file is damaged") from error
    filters = {key: state.pop(key) for key in list(state) if key.split(".")[-1] == FILTER}
    return NetworkWeights(config, state, single_filter(filters, path), notes)


def card_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the file says about its training: the card of our files, `training_set_kwargs` of a snapshot.

    Only plain data (see `plain_entries`), which JSON can hold: a pickle may have put anything there.
    """
    if checkpoint.format == "nvidia":
        settings = checkpoint.contents.get("training_set_kwargs")
        return {"training_set_kwargs": plain_entries(settings)} if isinstance(settings, dict) else {}
    try:
        card = json.loads(checkpoint.metadata.get("card", "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint.path}: its card is not JSON ({error}); the file is damaged") from error
    return plain_entries(card) if isinstance(card, dict) else {}


def save_generator(generator: StyleGAN2, path: Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file (float32) that `load_generator` reads. `card` defaults to the generator's own."""
    card = generator.card if card is None else card
    metadata = {
        "format": GENERATOR_FORMAT,
        "config": json.dumps(asdict(generator.config)),
        "card": json.dumps(dict(card)),
        "notes": json.dumps(list(generator.notes)),
        "fingerprint": generator.fingerprint,
    }
    save_tensors(Path(path), {name: tensor.float() for name, tensor in generator.state_dict().items()}, metadata)


def save_discriminator(discriminator: Discriminator, path: Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file (float32) that `load_discriminator` reads."""
    metadata = {
        "format": DISCRIMINATOR_FORMAT,
        "config": json.dumps(asdict(discriminator.config)),
        "card": json.dumps(dict(card or {})),
    }
    save_tensors(Path(path), {name: tensor.float() for name, tensor in discriminator.state_dict().items()}, metadata)


def save_rosinality(generator: StyleGAN2, path: Path) -> tuple[str, ...]:
    """Write `{'g_ema': state, 'latent_avg': w_avg [C]}` as rosinality's strict loader takes it.

    Returns notes on what its layout cannot say (a clamp, other channel widths). Raises CheckpointError for generators
    that it cannot hold: labels, another architecture than skip, another constant than 4x4.
    """
    state, notes = rosinality.exported(generator)
    contents = {"g_ema": state, "latent_avg": generator.w_avg.detach().cpu().clone()}
    write_atomically(Path(path), lambda temporary: torch.save(contents, temporary))
    return notes
