"""What a model file is, in a dict: for people, through `latentopt info`.

What a format of ours holds is described where that format is read (`latentopt.registry.FORMATS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from latentopt.checkpoints.model_files import Checkpoint, Source, read_checkpoint, resolve
from latentopt.checkpoints.networks import card_of, discriminator_weights, generator_from
from latentopt.checkpoints.weights import build, has_decoder, has_encoder, looks_like
from latentopt.errors import CheckpointError
from latentopt.registry import FORMATS

WRITTEN = {"pickle": "pickle", "torch": "torch file", "safetensors": "safetensors"}
LAYOUTS = {
    "record": "NVIDIA's networks",
    "nvidia": "NVIDIA's layout",
    "stylegan3": "NVIDIA's layout",
    "rosinality": "rosinality's layout",
    "basicsr": "BasicSR's layout",
}
GENERATOR_USE = "latentopt invert, tune, sample, fit-pnorm, fit-sigma (--network FILE), convert"


def describe(source: Source) -> dict[str, Any]:
    """Kind, sizes, fingerprint, training data, notes and use of a model file, of P-norm statistics or saved inputs.

    Weights are read and checked as for use. Raises CheckpointError, saying what it is not, for an unknown file, and
    UntrustedFileError for a pickle that asks for code.
    """
    checkpoint = read_checkpoint(resolve(source))
    facts: dict[str, Any] = {"file": str(checkpoint.path), "layout": _layout(checkpoint)}
    if checkpoint.format == "safetensors" and (checkpoint.is_ours or not checkpoint.networks):
        return facts | _safetensors(checkpoint, str(source))
    if checkpoint.format == "torch" and has_encoder(checkpoint.contents):
        return facts | _torch_encoder(checkpoint, str(source))
    facts["networks"] = [network.place for network in checkpoint.networks if network.place]
    kinds = {network.kind for network in checkpoint.networks}
    only_discriminator = "discriminator" in kinds and "generator" not in kinds
    describe_network = describe_discriminator if only_discriminator else describe_generator
    return facts | describe_network(checkpoint, str(source))


def _layout(checkpoint: Checkpoint) -> str:
    """How the file was written, and by whose names."""
    if checkpoint.is_ours:
        return "latentopt safetensors"
    layouts = dict.fromkeys(LAYOUTS[network.layout] for network in checkpoint.networks)
    return ", ".join([WRITTEN[checkpoint.format], *layouts])


def describe_generator(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    generator = generator_from(checkpoint, name)
    facts = {
        "kind": f"{generator.family} generator",
        "resolution": list(generator.resolution),
        "img_channels": generator.img_channels,
        "num_ws": generator.num_ws,
        "z_dim": generator.z_dim,
        "w_dim": generator.w_dim,
        "labels": generator.c_dim or None,
        **generator.architecture,
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "fingerprint": generator.fingerprint,
    }
    return facts | described_card(checkpoint) | {"notes": list(generator.notes), "use": GENERATOR_USE}


def described_card(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its card as an entry, where it has one."""
    card = card_of(checkpoint)
    return card if checkpoint.format != "safetensors" or not card else {"card": card}


def describe_discriminator(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    discriminator = build(discriminator_weights(checkpoint), str(checkpoint.path))
    size = sum(parameter.numel() for parameter in discriminator.parameters())
    facts = {"kind": "StyleGAN2 discriminator", **asdict(discriminator.config), "parameters": size}
    return (
        facts | described_card(checkpoint) | {"use": "a feature network for refiners and training; it draws no images"}
    )


def _torch_encoder(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A released encoder, and the generator that most of them hold too."""
    describe_encoder = FORMATS.load("latentopt-encoder-1")
    if not has_decoder(checkpoint.contents):
        return describe_encoder(checkpoint, name)
    try:
        about = describe_encoder(checkpoint, name)
    except CheckpointError as error:  # its generator may be used all the same
        about = {"unusable": str(error)}
    return describe_generator(checkpoint, name) | {"encoder": about}


def _safetensors(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    contents, form = checkpoint.contents, checkpoint.metadata.get("format", "")
    if form in FORMATS.targets:
        return FORMATS.load(form)(checkpoint, name)
    if form.startswith("latentopt-"):
        kind, size = form.removeprefix("latentopt-").rsplit("-", 1)[0], sum(x.numel() for x in contents.values())
        return {"kind": f"latentopt {kind}", "format": form, "numbers": size, **described_card(checkpoint)}
    if "ws" in contents and contents["ws"].ndim == 3:
        return _inputs(contents)
    raise CheckpointError(
        f"{checkpoint.path}: a safetensors file that is no latentopt generator, discriminator, encoder, statistics or "
        f"saved inputs; it looks like {looks_like(contents)}"
    )


def _inputs(contents: Mapping[str, Tensor]) -> dict[str, Any]:
    images, num_ws, w_dim = contents["ws"].shape
    parts = sorted({key.split("/", 1)[0] for key in contents if "/" in key})
    changed = [key.removeprefix("deltas/") for key in contents if key.startswith("deltas/")]
    return {
        "kind": "saved generator inputs",
        "images": images,
        "num_ws": num_ws,
        "w_dim": w_dim,
        "parts": ["ws", *parts],
        "changed_weights": len(changed),
        "use": "a start or a result to draw again, with the generator that they were made for",
    }
