"""Networks recorded in NVIDIA's pickles (stylegan2-ada-pytorch, StyleGAN2 of the stylegan3 repository).

The configuration is read from the attributes of each module and from the shapes, not from constructor arguments: the
defaults behind missing arguments differ between the two repositories.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latentopt.checkpoints.restricted_pickle import Record, module_attributes, module_state
from latentopt.checkpoints.weights import NetworkWeights, looks_like, without_filters
from latentopt.errors import CheckpointError
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.ops import ACTIVATIONS
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.generators.synthesis import ARCHITECTURES

CLAMPED = ("conv0", "conv1", "conv", "torgb")  # layers that take the network's clamp; skips never have one
LRELU = ("conv0", "conv1", "conv", "fromrgb", "fc")

Attributes = dict[str, dict[str, Any]]


def network_kind(record: Record) -> str:
    """`generator`, `discriminator` or `other`, told by the modules that a record holds."""
    modules = _modules(record)
    synthesis = modules.get("synthesis")
    if isinstance(synthesis, Record):
        return "generator" if "b4" in _modules(synthesis) or is_stylegan3(record) else "other"
    return "discriminator" if "b4" in modules else "other"


def is_stylegan3(record: Record) -> bool:
    """Whether a record is a StyleGAN3 generator, told by its synthesis network."""
    synthesis = _modules(record).get("synthesis")
    return isinstance(synthesis, Record) and "input" in _modules(synthesis) and "layer_names" in synthesis.state


def _modules(record: Record) -> dict:
    modules = record.state.get("_modules")
    return modules if isinstance(modules, dict) else {}


def require_kind(record: Record, kind: str, where: str) -> None:
    """Raise CheckpointError, saying what the record is, unless it is of `kind`."""
    found = network_kind(record)
    if found == "other":
        raise CheckpointError(f"{where}: a network of class {record.class_name!r} that is no StyleGAN2 {kind}")
    if found != kind:
        raise CheckpointError(f"{where}: holds a {found}, not a {kind}")


@dataclass(frozen=True)
class Settings:
    """What the shapes of the weights do not say."""

    lr_multiplier: float = 0.01
    architecture: str = "skip"
    conv_clamp: float | None = None
    num_fp16_res: int = 0
    mbstd_group_size: int | None = 4


def generator_weights(record: Record, where: str) -> NetworkWeights[StyleGAN2]:
    """Configuration and weights of a recorded StyleGAN2 generator.

    Raises CheckpointError for another network, settings that latentopt cannot express, or a damaged record.
    """
    require_kind(record, "generator", where)
    attributes, recorded = read_record(record, where)
    state, f = without_filters(recorded, where)
    with whole(state, where):
        names, _ = block_names(state, "synthesis.b", "conv1.weight"), _mapping_layers(state)
        settings = Settings(
            shared_lr_multiplier(attributes, where),
            _architecture(attributes, [f"synthesis.{name}" for name in names], where) or "skip",
            _clamp(attributes, where),
            sum(bool(attributes.get(f"synthesis.{name}", {}).get("use_fp16")) for name in names),
        )
        return NetworkWeights(generator_config(state, settings), state, f)


def discriminator_weights(record: Record, where: str) -> NetworkWeights[Discriminator]:
    """Configuration and weights of a recorded StyleGAN2 discriminator; errors as for `generator_weights`."""
    require_kind(record, "discriminator", where)
    attributes, recorded = read_record(record, where)
    state, f = without_filters(recorded, where)
    with whole(state, where):
        settings = Settings(
            shared_lr_multiplier(attributes, where) if "mapping.embed.weight" in state else 0.01,
            _architecture(attributes, [*block_names(state, "b", "conv0.weight"), "b4"], where) or "resnet",
            _clamp(attributes, where),
            mbstd_group_size=attributes.get("b4.mbstd", {}).get("group_size", 4),
        )
        return NetworkWeights(discriminator_config(state, settings, where), state, f)


def generator_config(state: Mapping[str, Tensor], settings: Settings) -> StyleGAN2Config:
    """The configuration that the shapes of NVIDIA's weights and `settings` give."""
    names = block_names(state, "synthesis.b", "conv1.weight")
    conditional = "mapping.embed.weight" in state
    layers, layer_features = _mapping_layers(state)
    const = state["synthesis.b4.const"]
    embed = state["mapping.embed.weight"].shape[0] if conditional else None
    return StyleGAN2Config(
        z_dim=state["mapping.fc0.weight"].shape[1] - (embed or 0),
        w_dim=state["synthesis.b4.conv1.affine.weight"].shape[1],
        channels=tuple(state[f"synthesis.{name}.conv1.weight"].shape[0] for name in names),
        c_dim=state["mapping.embed.weight"].shape[1] if conditional else 0,
        const_size=(const.shape[1], const.shape[2]),
        img_channels=state[f"synthesis.{names[-1]}.torgb.bias"].shape[0],
        mapping_layers=layers,
        embed_features=embed,
        layer_features=layer_features,
        lr_multiplier=settings.lr_multiplier,
        architecture=settings.architecture,
        conv_clamp=settings.conv_clamp,
        num_fp16_res=settings.num_fp16_res,
    )


def discriminator_config(state: Mapping[str, Tensor], settings: Settings, where: str) -> DiscriminatorConfig:
    """As `generator_config`. Raises CheckpointError where the last block is not 4x4."""
    names = block_names(state, "b", "conv0.weight")
    conditional = "mapping.embed.weight" in state
    layers, layer_features = _mapping_layers(state) if conditional else (8, None)
    last = state["b4.conv.weight"]
    if state["b4.fc.weight"].shape[1] != 16 * last.shape[0]:
        raise CheckpointError(f"{where}: its last block is not 4x4, which is not supported")
    return DiscriminatorConfig(
        channels=(last.shape[0], *(state[f"{name}.conv0.weight"].shape[0] for name in names)),
        img_channels=state[f"{names[-1]}.fromrgb.weight"].shape[1],
        c_dim=state["mapping.embed.weight"].shape[1] if conditional else 0,
        cmap_dim=state["b4.out.weight"].shape[0] if conditional else None,
        mapping_layers=layers,
        embed_features=state["mapping.embed.weight"].shape[0] if conditional else None,
        layer_features=layer_features,
        lr_multiplier=settings.lr_multiplier,
        architecture=settings.architecture,
        conv_clamp=settings.conv_clamp,
        mbstd_group_size=settings.mbstd_group_size,
        mbstd_num_channels=last.shape[1] - last.shape[0],
    )


@contextlib.contextmanager
def whole(state: Mapping[str, Tensor], where: str, family: str = "StyleGAN2") -> Iterator[None]:
    """Turns a look-up of a weight that is not there, or has other dimensions, into a CheckpointError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        looks = looks_like(state)
        raise CheckpointError(f"{where}: not a whole {family} network ({error!r}); it looks like {looks}") from error


def read_record(record: Record, where: str) -> tuple[Attributes, dict[str, Tensor]]:
    """Attributes by module path, and every parameter and buffer. Raises CheckpointError."""
    try:
        attributes, state = module_attributes(record), module_state(record)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    _check_layers(attributes, state, where)
    return attributes, state


def block_names(state: Mapping[str, Tensor], prefix: str, suffix: str) -> list[str]:
    """`b4`, `b8`, ... from coarse to fine: the blocks that have the weight `suffix`."""
    sizes = set()
    for key in state:
        if key.startswith(prefix) and key.endswith(f".{suffix}"):
            size = key.removeprefix(prefix).removesuffix(f".{suffix}")
            if size.isdecimal() and len(size) < 6:
                sizes.add(int(size))
    if not sizes:
        raise KeyError(f"{prefix}*.{suffix}")
    return [f"b{size}" for size in sorted(sizes)]


def _mapping_layers(state: Mapping[str, Tensor]) -> tuple[int, int | None]:
    """The number of layers, and the width between them."""
    layers = sum(key.startswith("mapping.fc") and key.endswith(".weight") for key in state)
    first = state["mapping.fc0.weight"]
    return layers, first.shape[0] if layers > 1 else None


def shared_lr_multiplier(attributes: Attributes, where: str) -> float:
    """Of the mapping layers. Raises CheckpointError where they have none, or several."""
    layers = [path for path in attributes if path.startswith("mapping.fc")]
    gain = _shared(attributes, "bias_gain", layers, where)
    if gain is None:
        raise CheckpointError(
            f"{where}: the mapping layers have no attribute bias_gain, their learning-rate multiplier"
        )
    return float(gain)


def _clamp(attributes: Attributes, where: str) -> float | None:
    layers = [path for path in attributes if path.split(".")[-1] in CLAMPED and "conv_clamp" in attributes[path]]
    clamp = _shared(attributes, "conv_clamp", layers, where)
    return None if clamp is None else float(clamp)


def _architecture(attributes: Attributes, blocks: list[str], where: str) -> str | None:
    architecture = _shared(attributes, "architecture", blocks, where)
    if architecture not in (None, *ARCHITECTURES):
        raise CheckpointError(f"{where}: architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    return architecture


def _shared(attributes: Attributes, name: str, paths: list[str], where: str) -> Any:
    """The value of an attribute that all modules of `paths` must share; None where none has it."""
    values = {path: attributes[path][name] for path in paths if name in attributes.get(path, {})}
    if any(value != next(iter(values.values())) for value in values.values()):
        raise CheckpointError(f"{where}: its layers differ in {name} ({values}), which is not supported")
    return next(iter(values.values()), None)


def _check_layers(attributes: Attributes, state: Mapping[str, Tensor], where: str) -> None:
    """Refuse what would load without complaint and draw something else."""
    for path, values in attributes.items():
        name = path.split(".")[-1]
        activation = "lrelu" if name in LRELU or path.startswith("mapping.fc") else "linear"
        expected = {"activation": activation, "use_noise": True, "act_gain": ACTIVATIONS[activation][1]}
        if name in ("affine", "embed"):
            expected["bias_gain"] = 1
        if (weight := state.get(f"{path}.weight")) is not None and weight.ndim > 1:
            expected["weight_gain"] = _number(values.get("bias_gain", 1)) / math.sqrt(max(weight[0].numel(), 1))
        for attribute, value in expected.items():
            found = values.get(attribute, value)
            same = math.isclose(_number(found), value, rel_tol=1e-4) if isinstance(value, float) else found == value
            if not same:
                raise CheckpointError(f"{where}: {path} has {attribute} {found!r}, not {value!r}: not supported")


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
