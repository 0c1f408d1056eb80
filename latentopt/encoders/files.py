"""Encoders in files: our safetensors, the bundled ones by name, and released pSp, e4e and ReStyle checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from latentopt.checkpoints.describe import described_card
from latentopt.checkpoints.model_files import Checkpoint, read_checkpoint, resolve
from latentopt.checkpoints.networks import load_generator
from latentopt.checkpoints.trained_files import trained_file
from latentopt.checkpoints.weights import has_decoder, looks_like
from latentopt.encoders import KINDS
from latentopt.encoders.building import build_net, rows_of_average
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.encoder import Encoder
from latentopt.encoders.official import official_encoder
from latentopt.errors import CheckpointError
from latentopt.files.schema import parse_json
from latentopt.files.storage import save_tensors
from latentopt.protocols import Generator

FORMAT = "latentopt-encoder-1"
AVERAGE = "latent_avg"


def save_encoder(encoder: Encoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a safetensors file that `load_encoder` reads; names of weights as in released files.

    dtype: of the floating-point weights; float16 halves the file and changes codes by about 1e-3 of their size.
    """
    names = encoder.net.official_names()
    tensors = {names[name]: tensor for name, tensor in encoder.net.state_dict().items()}
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if encoder.latent_avg is not None:
        tensors[AVERAGE] = encoder.latent_avg.float()
    metadata = {
        "format": FORMAT,
        "config": encoder.config.to_json(),
        "card": json.dumps(dict(encoder.card)),
        "generator": encoder.generator,
    }
    save_tensors(Path(path), tensors, metadata)


def load_encoder(source: str | Path, generator: Generator | None = None, *, force: bool = False) -> Encoder:
    """An encoder from a file, or the bundled one of that kind (`e4e`) for `generator`.

    It is in evaluation mode, without gradients, on the CPU.

    Given a generator, the encoder is checked against it, and moved to its device; one that was trained for another
    generator is refused, unless `force`.
    Raises MissingWeightsError where no encoder of that name is bundled, CheckpointError for files of another kind,
    damaged ones and ones that do not fit, UntrustedFileError for files that ask for code to be run.
    """
    path = encoder_path(source, generator)
    encoder = encoder_from(read_checkpoint(path), str(source))
    if generator is None:
        return encoder
    encoder.check_fits(generator)
    if encoder.generator not in ("", generator.fingerprint) and not force:
        raise CheckpointError(
            f"{source}: trained for generator {encoder.generator}, not for {generator.name!r} "
            f"({generator.fingerprint}); name its own generator, or force it where one was made from the other"
        )
    return encoder.to(generator.device)


def encoder_path(source: str | Path, generator: Generator | None = None) -> Path:
    """The file that `source` means: a kind's name stands for a bundled encoder, `./e4e` for a file.

    Raises MissingWeightsError or CheckpointError where there is none.
    """
    return trained_file(source, "encoder", KINDS, generator)


def encoder_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The encoder that a start reads (a finder of `latentopt.registry.FILES`): the one named, or the bundled one."""
    return [encoder_path(named or str(part.get("kind", part["name"])), generator)]


def bootstrap_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The encoder that ReStyle's steps begin with; it may be of another generator."""
    network = part.get("bootstrap_network")
    return [encoder_path(str(named), generator if network is None else load_generator(str(network)))]


def generator_file(generator: Generator, named: str | None, part: Mapping[str, Any]) -> list[Path]:
    """The file of another generator that is named."""
    return [] if named is None else [resolve(named)]


def encoder_from(checkpoint: Checkpoint, name: str) -> Encoder:
    """The encoder of a file that was read. Raises CheckpointError."""
    path = str(checkpoint.path)
    if checkpoint.format == "torch":
        return official_encoder(checkpoint.contents, path, name)
    if checkpoint.format == "pickle":
        raise CheckpointError(f"{path}: a pickle, as NVIDIA's generators are, not an encoder; give it as --network")
    if (found := checkpoint.metadata.get("format", "")) != FORMAT:
        kind = f"a file of format {found}" if found else f"it looks like {looks_like(checkpoint.contents)}"
        raise CheckpointError(f"{path}: no encoder: {kind}; expected {FORMAT}, or a pSp, e4e or ReStyle .pt")
    return _own_encoder(checkpoint, name)


def _own_encoder(checkpoint: Checkpoint, name: str) -> Encoder:
    path, metadata = str(checkpoint.path), checkpoint.metadata
    try:
        config = EncoderConfig.from_json(metadata["config"])
        card = parse_json(metadata.get("card", "{}"), dict[str, Any])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be read ({error!r}); the file is damaged") from error
    state = dict(checkpoint.contents)
    average = state.pop(AVERAGE, None)
    net = build_net(config, state, path)
    latent_avg = None if average is None else rows_of_average(average, config, path)
    return Encoder(net, latent_avg, metadata.get("generator", ""), name, card)


def holds_generator(source: str | Path) -> bool:
    """Whether the file that `source` means has a generator beside the encoder: `load_generator` then reads it."""
    if isinstance(source, str) and source in KINDS:
        return False
    checkpoint = read_checkpoint(encoder_path(source))
    return checkpoint.format == "torch" and has_decoder(checkpoint.contents)


def describe_encoder(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What `latentopt info` tells of an encoder's file (see `latentopt.registry.FORMATS`)."""
    encoder = encoder_from(checkpoint, name)
    config = encoder.config
    return {
        "kind": f"{config.kind} encoder",
        "backbone": config.backbone,
        "heads": config.heads,
        "num_ws": config.num_ws,
        "w_dim": config.w_dim,
        "image_size": list(config.image_size),
        "start_from_average": config.start_from_average,
        "average": "in the file" if encoder.latent_avg is not None else "the generator's mean of w",
        "stage": config.stage,
        "steps": encoder.default_steps,
        "parameters": sum(parameter.numel() for parameter in encoder.net.parameters()),
        "generator": encoder.generator,
        "fingerprint": encoder.fingerprint,
        **described_card(checkpoint),
        "notes": list(encoder.notes),
        "use": "latentopt encode (--encoder FILE), invert (--init encoder:FILE)",
    }
