"""Generators and discriminators from files of any kind, told apart by content, and back to files.

Read: NVIDIA snapshots (.pkl) of StyleGAN2 and StyleGAN3, whole networks saved by PTI (.pt), state dicts of NVIDIA's and
rosinality's layout in whatever they are wrapped in (.pt, .safetensors), encoder files with a decoder, our safetensors.
A bundled model goes by its name, one on the Hub by `hf:user/repo`. Nothing in a file is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from latentopt.checkpoints import nvidia, nvidia_state, rosinality, stylegan3
from latentopt.checkpoints.finding import Found, notes_on, require
from latentopt.checkpoints.missing import W_AVG
from latentopt.checkpoints.model_files import Checkpoint, Source, bundled_path, named, read_checkpoint, resolve
from latentopt.checkpoints.persistence import Record, plain_entries
from latentopt.checkpoints.weights import (
    W_AVG_SAMPLES,
    NetworkWeights,
    build,
    described,
    estimate_w_avg,
    without_filters,
)
from latentopt.errors import CheckpointError
from latentopt.files.schema import parse_json
from latentopt.files.storage import save_tensors, write_atomically
from latentopt.generators.config import Network, NetworkConfig
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.families import FAMILIES
from latentopt.generators.network import GeneratorNetwork
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.protocols import Generator

GENERATOR_FORMAT, DISCRIMINATOR_FORMAT = "latentopt-generator-1", "latentopt-discriminator-1"
FIRST_FAMILY = "stylegan2"  # of files that name no family: they were written before there were others
IMG_CHANNELS = (1, 3, 4)  # grey, colour, colour and transparency

__all__ = [
    "bundled_path",
    "load_discriminator",
    "load_generator",
    "load_stylegan2",
    "save_discriminator",
    "save_generator",
    "save_rosinality",
]


def load_generator(
    source: Source, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Generator:
    """A generator of any family from a file, the name of a bundled one or the Hub (`hf:user/repo[@revision][/file]`,
    extra `hub`): evaluation mode, no gradients.

    `generator.notes` says what the file lacked and what was put in its place (noise maps, w_avg); `generator.card` is
    what is known about the training. Raises CheckpointError for files of another kind or with weights that do not fit,
    UntrustedFileError for a pickle that asks for code to be run, HubError where the Hub does not give the file.
    """
    network = _generator(source).to(device=device, dtype=dtype)
    return cast(Generator, network)  # each family adds what GeneratorNetwork leaves open; its test asks for all of it


def load_stylegan2(
    source: Source, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> StyleGAN2:
    """As `load_generator`, for what trains the network itself. Raises CheckpointError for one of another family."""
    network = _generator(source)
    if not isinstance(network, StyleGAN2):
        raise CheckpointError(f"{source}: a {network.family} generator, where a StyleGAN2 generator is asked for")
    return network.to(device=device, dtype=dtype)


def _generator(source: Source) -> GeneratorNetwork:
    path = resolve(source)
    generator = generator_from(read_checkpoint(path), str(source))
    generator.name, generator.source = named(source, path)
    return generator


def generator_from(checkpoint: Checkpoint, name: str) -> GeneratorNetwork:
    """The generator of a file that was read. Raises CheckpointError."""
    weights = generator_weights(checkpoint)
    may_lack = () if checkpoint.is_ours else (W_AVG,)
    with checkpoint.refusing():
        generator = build(weights, str(checkpoint.path), may_lack)
    notes, card = weights.notes, card_of(checkpoint)
    if W_AVG not in weights.state:
        generator.w_avg.copy_(estimate_w_avg(generator))
        notes += (f"the file has no mean of w: estimated from {W_AVG_SAMPLES:,} samples (seed 0)",)
    if generator.img_channels not in IMG_CHANNELS:
        raise CheckpointError(
            f"{checkpoint.path}: draws images of {generator.img_channels} channels; latentopt takes generators of 1 "
            "(grey), 3 (colour) and 4 (colour and transparency)"
        )
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
    return build(discriminator_weights(checkpoint), str(checkpoint.path)).to(device=device, dtype=dtype)


def generator_weights(checkpoint: Checkpoint) -> NetworkWeights[GeneratorNetwork]:
    """Configuration and weights of a file's generator. Raises CheckpointError when it has none."""
    path = str(checkpoint.path)
    if checkpoint.is_ours:
        _require_format(checkpoint, GENERATOR_FORMAT, "generator")
        family = checkpoint.metadata.get("family", FIRST_FAMILY)
        if family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise CheckpointError(f"{path}: a generator of family {family!r}; this latentopt knows {known}")
        return _own_weights(checkpoint, FAMILIES.load(family).Config)
    with checkpoint.refusing():
        found = require(checkpoint.networks, "generator", path, described(checkpoint.contents))
        weights = _weights_of(found, path)
    left_out = f"left out, since they are of other packages: {', '.join(checkpoint.foreign)}"
    notes = notes_on(found, checkpoint.networks) + ((left_out,) if checkpoint.foreign else ())
    return replace(weights, notes=notes + weights.notes)


def _weights_of(found: Found, path: str) -> NetworkWeights[StyleGAN2] | NetworkWeights[StyleGAN3]:
    if isinstance(found.weights, Record):
        if nvidia.is_stylegan3(found.weights):
            return stylegan3.weights_of_record(found.weights, path)
        return nvidia.generator_weights(found.weights, path)
    if found.layout == "stylegan3":
        return stylegan3.weights_of_state(found.weights, found.average, path)
    if found.layout == "nvidia":
        return nvidia_state.generator_weights(found.weights, found.average, path)
    state = rosinality.from_basicsr(found.weights) if found.layout == "basicsr" else found.weights
    return rosinality.generator_weights(state, found.average, path)


def discriminator_weights(checkpoint: Checkpoint) -> NetworkWeights[Discriminator]:
    """Configuration and weights of a file's discriminator. Raises CheckpointError when it has none."""
    path = str(checkpoint.path)
    if checkpoint.is_ours:
        _require_format(checkpoint, DISCRIMINATOR_FORMAT, "discriminator")
        return _own_weights(checkpoint, DiscriminatorConfig)
    with checkpoint.refusing():
        found = require(checkpoint.networks, "discriminator", path, described(checkpoint.contents))
        if isinstance(found.weights, Record):
            return nvidia.discriminator_weights(found.weights, path)
        layout = rosinality if found.layout == "rosinality" else nvidia_state
        return layout.discriminator_weights(found.weights, path)


def _require_format(checkpoint: Checkpoint, wanted: str, kind: str) -> None:
    path, found = checkpoint.path, checkpoint.metadata.get("format", "")
    if found != wanted:
        raise CheckpointError(f"{path}: a file of format {found}, where a {kind} is asked for ({wanted})")


def _own_weights(checkpoint: Checkpoint, config_class: type[NetworkConfig[Network]]) -> NetworkWeights[Network]:
    """Configuration and weights of a file of ours."""
    path, metadata, state = str(checkpoint.path), checkpoint.metadata, dict(checkpoint.contents)
    try:
        config = config_class.from_json(metadata["config"])
        notes = parse_json(metadata.get("notes", "[]"), tuple[str, ...])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be read ({error!r}); the file is damaged") from error
    return NetworkWeights(config, *without_filters(state, path), notes)


def card_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the file says about its training: the card of our files, `training_set_kwargs` of a snapshot.

    Only plain data (see `plain_entries`), which JSON can hold: a pickle may have put anything there.
    """
    if checkpoint.format != "safetensors":
        settings = checkpoint.contents.get("training_set_kwargs")
        return {"training_set_kwargs": plain_entries(settings)} if isinstance(settings, dict) else {}
    try:
        return parse_json(checkpoint.metadata.get("card", "{}"), dict[str, Any])
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: its card is not JSON ({error}); the file is damaged") from error


def save_generator(generator: Generator, path: Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file (float32) that `load_generator` reads. `card` defaults to the generator's own.

    Raises CheckpointError for a generator that is none of latentopt's own networks.
    """
    if not isinstance(generator, GeneratorNetwork):
        raise CheckpointError(f"{generator.name}: only latentopt's own networks are written, not {type(generator)}")
    card = generator.card if card is None else card
    about = {"family": generator.family.lower(), "notes": json.dumps(list(generator.notes))}
    _save(generator, GENERATOR_FORMAT, path, card, **about, fingerprint=generator.fingerprint)


def save_discriminator(discriminator: Discriminator, path: Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file (float32) that `load_discriminator` reads."""
    _save(discriminator, DISCRIMINATOR_FORMAT, path, card or {})


def _save(
    network: GeneratorNetwork | Discriminator, form: str, path: Path, card: Mapping[str, Any], **about: str
) -> None:
    metadata = {"format": form, "config": network.config.to_json(), "card": json.dumps(dict(card)), **about}
    save_tensors(Path(path), {name: tensor.float() for name, tensor in network.state_dict().items()}, metadata)


def save_rosinality(generator: Generator, path: Path) -> tuple[str, ...]:
    """Write `{'g_ema': state, 'latent_avg': w_avg [C]}` as rosinality's strict loader takes it.

    Returns notes on what its layout cannot say (a clamp, other channel widths). Raises CheckpointError for generators
    that it cannot hold: another family, labels, another architecture than skip, another constant than 4x4.
    """
    if not isinstance(generator, StyleGAN2):
        raise CheckpointError(f"{generator.name}: rosinality's layout cannot hold a {generator.family} generator")
    state, notes = rosinality.exported(generator)
    contents = {"g_ema": state, "latent_avg": generator.w_avg.detach().cpu().clone()}
    write_atomically(Path(path), lambda temporary: torch.save(contents, temporary))
    return notes
