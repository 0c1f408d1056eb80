"""What a model file is, in a dict: for people, through `latentopt info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from latentopt.checkpoints.delta_files import FORMAT as DELTA_FORMAT
from latentopt.checkpoints.delta_files import parse_delta
from latentopt.checkpoints.model_files import Checkpoint, Source, read_checkpoint, resolve
from latentopt.checkpoints.networks import (
    DISCRIMINATOR_FORMAT,
    GENERATOR_FORMAT,
    card_of,
    generator_from,
    network_weights,
)
from latentopt.checkpoints.restricted_pickle import Record
from latentopt.checkpoints.weights import build, looks_like
from latentopt.editing.files import FORMAT as DIRECTIONS_FORMAT
from latentopt.editing.files import parse_directions
from latentopt.editing.layers import layers_text
from latentopt.encoders.files import FORMAT as ENCODER_FORMAT
from latentopt.encoders.files import encoder_from
from latentopt.encoders.official import has_decoder, has_encoder
from latentopt.errors import CheckpointError
from latentopt.statistics.sigma import FORMAT as SIGMA_FORMAT
from latentopt.statistics.sigma import parse_sigma

LAYOUTS = {
    "nvidia": "NVIDIA pickle",
    "torch": "torch file (rosinality's layout)",
    "safetensors": "latentopt safetensors",
}
TORCH_NETWORKS = ("g", "d", "g_ema", "state_dict")
STATISTICS_FIELDS = ("name", "fingerprint", "n", "seed", "slope")
ENCODER_USE = "latentopt encode (--encoder FILE), invert (--init encoder:FILE)"
GENERATOR_USE = "latentopt invert, tune, sample, fit-pnorm, fit-sigma (--network FILE), convert"


def describe(source: Source) -> dict[str, Any]:
    """Kind, sizes, fingerprint, training data, notes and use of a model file, of P-norm statistics or saved inputs.

    Weights are read and checked as for use. Raises CheckpointError, saying what it is not, for an unknown file, and
    UntrustedFileError for a pickle that asks for code.
    """
    checkpoint = read_checkpoint(resolve(source))
    facts: dict[str, Any] = {"file": str(checkpoint.path), "layout": LAYOUTS[checkpoint.format]}
    if checkpoint.format == "safetensors":
        return facts | _safetensors(checkpoint, str(source))
    if checkpoint.format == "torch" and has_encoder(checkpoint.contents):
        return facts | _torch_encoder(checkpoint, str(source))
    if checkpoint.format == "nvidia":
        facts["networks"] = [str(key) for key, value in checkpoint.contents.items() if isinstance(value, Record)]
    return facts | (
        _discriminator(checkpoint) if _only_discriminator(checkpoint) else _generator(checkpoint, str(source))
    )


def _only_discriminator(checkpoint: Checkpoint) -> bool:
    generator, discriminator = ("G_ema", "D") if checkpoint.format == "nvidia" else ("g_ema", "d")
    return generator not in checkpoint.contents and discriminator in checkpoint.contents


def _generator(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    generator = generator_from(checkpoint, name)
    config = generator.config
    facts = {
        "kind": "StyleGAN2 generator",
        "resolution": list(generator.resolution),
        "num_ws": generator.num_ws,
        "z_dim": generator.z_dim,
        "w_dim": generator.w_dim,
        "labels": generator.c_dim or None,
        "channels": list(config.channels),
        "mapping_layers": config.mapping_layers,
        "lr_multiplier": config.lr_multiplier,
        "architecture": config.architecture,
        "conv_clamp": config.conv_clamp,
        "fp16_blocks": config.num_fp16_res,
        "parameters": _count(generator),
        "fingerprint": generator.fingerprint,
    }
    return facts | _card(checkpoint) | {"notes": list(generator.notes), "use": GENERATOR_USE}


def _card(checkpoint: Checkpoint) -> dict[str, Any]:
    card = card_of(checkpoint)
    return card if checkpoint.format == "nvidia" or not card else {"card": card}


def _discriminator(checkpoint: Checkpoint) -> dict[str, Any]:
    discriminator = build(network_weights(checkpoint, "discriminator"), str(checkpoint.path))
    facts = {"kind": "StyleGAN2 discriminator", **asdict(discriminator.config), "parameters": _count(discriminator)}
    return facts | _card(checkpoint) | {"use": "a feature network for refiners and training; it draws no images"}


def _torch_encoder(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A released encoder, and the generator that most of them hold too."""
    if not has_decoder(checkpoint.contents):
        return _encoder(checkpoint, name)
    try:
        about = _encoder(checkpoint, name)
    except CheckpointError as error:  # its generator may be used all the same
        about = {"unusable": str(error)}
    return _generator(checkpoint, name) | {"encoder": about}


def _encoder(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    encoder = encoder_from(checkpoint, name)
    config = encoder.config
    facts = {
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
        "parameters": _count(encoder.net),
        "generator": encoder.generator,
        "fingerprint": encoder.fingerprint,
    }
    return facts | _card(checkpoint) | {"notes": list(encoder.notes), "use": ENCODER_USE}


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _safetensors(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    contents, form = checkpoint.contents, checkpoint.metadata.get("format", "")
    if form == GENERATOR_FORMAT:
        return _generator(checkpoint, name)
    if form == DISCRIMINATOR_FORMAT:
        return _discriminator(checkpoint)
    if form == ENCODER_FORMAT:
        return _encoder(checkpoint, name)
    if form.startswith("latentopt-pnorm"):
        return _statistics(checkpoint)
    if form == DELTA_FORMAT:
        return _delta(checkpoint)
    if form == SIGMA_FORMAT:
        return _sigma(checkpoint)
    if form == DIRECTIONS_FORMAT:
        return _directions(checkpoint)
    if form.startswith("latentopt-"):
        kind, size = form.removeprefix("latentopt-").rsplit("-", 1)[0], sum(x.numel() for x in contents.values())
        return {"kind": f"latentopt {kind}", "format": form, "numbers": size, **_card(checkpoint)}
    if "ws" in contents and contents["ws"].ndim == 3:
        return _inputs(contents)
    raise CheckpointError(
        f"{checkpoint.path}: a safetensors file that is no latentopt generator, discriminator, encoder, statistics or saved "
        f"inputs; it looks like {looks_like(contents)}"
    )


def _statistics(checkpoint: Checkpoint) -> dict[str, Any]:
    std = checkpoint.contents.get("std")
    if std is None or std.ndim != 1 or not len(std):
        raise CheckpointError(f"{checkpoint.path}: P-norm statistics without 'std' [C]; the file is damaged")
    known = {key: checkpoint.metadata[key] for key in STATISTICS_FIELDS if key in checkpoint.metadata}
    return {
        "kind": "P-norm statistics",
        "w_dim": len(std),
        "largest_std": float(std.max()),
        "smallest_std": float(std.min()),
        **known,
        "use": "the P-norm spaces, for the generator with this fingerprint",
    }


def _delta(checkpoint: Checkpoint) -> dict[str, Any]:
    delta = parse_delta(checkpoint.contents, checkpoint.metadata, str(checkpoint.path))
    return {
        "kind": "delta of tuned weights",
        "generator": delta.name,
        "fingerprint": delta.fingerprint,
        "weights": len(delta.shapes),
        "values": delta.values,
        "rank": delta.rank,
        "rms": delta.rms,
        "bytes": checkpoint.path.stat().st_size,
        "about": delta.about,
        "use": "sample, convert (--delta FILE), with the generator of this fingerprint",
    }


def _sigma(checkpoint: Checkpoint) -> dict[str, Any]:
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


def _directions(checkpoint: Checkpoint) -> dict[str, Any]:
    directions = parse_directions(checkpoint.contents, checkpoint.metadata, str(checkpoint.path))
    return {
        "kind": "directions for editing",
        "generator": checkpoint.metadata.get("generator"),
        "fingerprint": checkpoint.metadata.get("fingerprint"),
        "directions": {d.name: f"{d.space}, rows {layers_text(d.layers)}, {d.method}" for d in directions},
        "use": "latentopt edit (--directions FILE), with the generator of this fingerprint",
    }


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
