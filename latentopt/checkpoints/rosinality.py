"""The layout of rosinality's stylegan2-pytorch, read and written: generators, discriminators, encoder files' decoders.

Weights are the same tensors under other names, some with extra dimensions of size 1. Kernel buffers of up-sampling
layers hold the FIR filter times 4.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from latentopt.checkpoints.missing import with_missing
from latentopt.checkpoints.weights import NetworkWeights, looks_like, single_filter
from latentopt.errors import CheckpointError
from latentopt.generators.discriminator import Discriminator, DiscriminatorConfig
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config

LR_MULTIPLIER = 0.01  # of the mapping; the files do not store it
UP_GAIN = 4.0

LAYER = {  # rosinality's name: (ours, dimensions of size 1 in front and behind)
    "conv.weight": ("weight", 1, 0),
    "conv.modulation.weight": ("affine.weight", 0, 0),
    "conv.modulation.bias": ("affine.bias", 0, 0),
    "activate.bias": ("bias", 0, 0),
    "noise.weight": ("noise_strength", 1, 0),
}
TORGB = {
    "conv.weight": ("weight", 1, 0),
    "conv.modulation.weight": ("affine.weight", 0, 0),
    "conv.modulation.bias": ("affine.bias", 0, 0),
    "bias": ("bias", 1, 2),
}

BASICSR = (  # pattern of a name -> rosinality's name of the same weight
    (r"style_mlp\.", "style."),
    (r"constant_input\.weight", "input.input"),
    (r"style_(convs\.\d+|conv1)\.weight", r"\1.noise.weight"),
    (r"style_(convs|conv1)\.", r"\1."),
    (r"noises\.noise(\d+)", r"noises.noise_\1"),
)

Names = dict[str, tuple[str, int, int]]


def from_basicsr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A generator's weights in BasicSR's layout, the same tensors, by rosinality's names."""
    found = {}
    for name, value in state.items():
        pattern, ours = next((pair for pair in BASICSR if re.match(pair[0], name)), ("^", ""))
        found[re.sub(pattern, ours, name, count=1).replace(".modulated_conv.", ".conv.")] = value
    return found


def generator_names(mapping_layers: int, blocks: int) -> Names:
    """Every weight of a generator: rosinality's key -> (ours, dimensions of size 1 in front, behind)."""
    names: Names = {"input.input": ("synthesis.b4.const", 1, 0)}
    for i in range(mapping_layers):
        names |= {f"style.{i + 1}.{x}": (f"mapping.fc{i}.{x}", 0, 0) for x in ("weight", "bias")}
    for block in range(blocks):
        name = f"synthesis.b{4 << block}"
        j = block - 1
        layers = {f"convs.{2 * j}": "conv0", f"convs.{2 * j + 1}": "conv1"} if block else {"conv1": "conv1"}
        for theirs, ours in layers.items():
            names |= _prefixed(LAYER, theirs, f"{name}.{ours}")
            index = 2 * block - (ours == "conv0")
            names[f"noises.noise_{index}"] = (f"{name}.{ours}.noise_const", 2, 0)
        names |= _prefixed(TORGB, f"to_rgbs.{j}" if block else "to_rgb1", f"{name}.torgb")
    return names


def _prefixed(names: Names, theirs: str, ours: str) -> Names:
    return {f"{theirs}.{key}": (f"{ours}.{name}", before, after) for key, (name, before, after) in names.items()}


def kernel_names(blocks: int) -> list[str]:
    """The kernel buffers of a generator; each holds the filter times 4."""
    return [f"{x}.kernel" for j in range(blocks - 1) for x in (f"convs.{2 * j}.conv.blur", f"to_rgbs.{j}.upsample")]


def discriminator_names(blocks: int) -> dict[str, str]:
    """Every weight of a discriminator with `blocks` resolutions, the 4x4 one included: rosinality's key -> ours."""
    top = f"b{2 << blocks}"
    names = {"convs.0.0.weight": f"{top}.fromrgb.weight", "convs.0.1.bias": f"{top}.fromrgb.bias"}
    for b in range(1, blocks):
        name = f"b{(2 << blocks) >> (b - 1)}"
        names |= {
            f"convs.{b}.conv1.0.weight": f"{name}.conv0.weight",
            f"convs.{b}.conv1.1.bias": f"{name}.conv0.bias",
            f"convs.{b}.conv2.1.weight": f"{name}.conv1.weight",
            f"convs.{b}.conv2.2.bias": f"{name}.conv1.bias",
            f"convs.{b}.skip.1.weight": f"{name}.skip.weight",
        }
    names |= {"final_conv.0.weight": "b4.conv.weight", "final_conv.1.bias": "b4.conv.bias"}
    for i, layer in enumerate(("fc", "out")):
        names |= {f"final_linear.{i}.{x}": f"b4.{layer}.{x}" for x in ("weight", "bias")}
    return names


def generator_weights(theirs: Mapping[str, Tensor], latent_avg: Tensor | None, where: str) -> NetworkWeights[StyleGAN2]:
    """Configuration and weights of a generator. Without `latent_avg` ([C], [1,C] or [n,C]) the state lacks w_avg.

    Files of older code have no noise maps: seeded ones are put in, and the notes say so. Raises CheckpointError, saying
    what the weights look like, when they are not a generator's.
    """
    with _whole(theirs, where):
        layers = sum(key.startswith("style.") and key.endswith(".weight") for key in theirs)
        blocks = 1 + sum(key.startswith("to_rgbs.") and key.endswith(".conv.weight") for key in theirs)
        names = generator_names(layers, blocks)
        state = {}
        for key, (ours, before, after) in names.items():
            if key in theirs:
                state[ours] = _squeezed(theirs[key], before, after, key)
        kernels = {key: theirs[key] / UP_GAIN for key in kernel_names(blocks) if key in theirs}
        const = state["synthesis.b4.const"]
        config = StyleGAN2Config(
            z_dim=state["mapping.fc0.weight"].shape[1],
            w_dim=state["synthesis.b4.conv1.affine.weight"].shape[1],
            channels=tuple(state[f"synthesis.b{4 << i}.conv1.weight"].shape[0] for i in range(blocks)),
            const_size=(const.shape[1], const.shape[2]),
            img_channels=state["synthesis.b4.torgb.bias"].shape[0],
            mapping_layers=layers,
            layer_features=state["mapping.fc0.weight"].shape[0],
            lr_multiplier=LR_MULTIPLIER,
            demodulation="scaled",
        )
        f = single_filter(kernels, where)
    state, notes = with_missing(state, config, latent_avg, where, len(kernels))
    state |= {key: value for key, value in theirs.items() if key not in names and key not in kernels}  # build() tells
    return NetworkWeights(config, state, f, notes)


def discriminator_weights(theirs: Mapping[str, Tensor], where: str) -> NetworkWeights[Discriminator]:
    """Configuration and weights of a discriminator. Raises CheckpointError when the weights are not one's."""
    with _whole(theirs, where):
        blocks = 1 + sum(key.startswith("convs.") and key.endswith(".skip.1.weight") for key in theirs)
        names = discriminator_names(blocks)
        state = {ours: theirs[key] for key, ours in names.items() if key in theirs}
        kernels = {key: theirs[key] for key in theirs if key.endswith(".kernel")}
        last, top = state["b4.conv.weight"], f"b{2 << blocks}"
        channels = (last.shape[0], *(state[f"b{4 << i}.conv0.weight"].shape[0] for i in range(1, blocks)))
        config = DiscriminatorConfig(
            channels,
            img_channels=state[f"{top}.fromrgb.weight"].shape[1],
            mbstd_num_channels=last.shape[1] - last.shape[0],
        )
        f = single_filter(kernels, where)
    state |= {key: value for key, value in theirs.items() if key not in names and key not in kernels}
    return NetworkWeights(config, state, f)


@contextlib.contextmanager
def _whole(state: Mapping[str, Tensor], where: str) -> Iterator[None]:
    """Turns a look-up of a weight that is not there, or has other dimensions, into a CheckpointError."""
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{where}: not a state dict: some of its values are no tensors")
    try:
        yield
    except (KeyError, IndexError, ValueError) as error:
        message = f"{where}: not a rosinality network ({error}); the weights look like {looks_like(state)}"
        raise CheckpointError(message) from error


def _squeezed(tensor: Tensor, before: int, after: int, key: str) -> Tensor:
    shape = tensor.shape
    if len(shape) < before + after or {*shape[:before], *shape[len(shape) - after :]} - {1}:
        raise ValueError(f"{key} has shape {tuple(shape)}")
    return tensor.reshape(shape[before : len(shape) - after])


def exported(generator: StyleGAN2) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The `g_ema` state of a generator, complete for a strict loader, and notes on what the layout cannot say.

    The mapping's weights are rescaled where its learning-rate multiplier is not rosinality's 0.01. Raises
    CheckpointError for what the layout has no place for: labels, other architectures, constants or widths of z.
    """
    config = generator.config
    problems = {
        "it takes labels": config.c_dim > 0,
        f"its architecture is {config.architecture!r}": config.architecture != "skip",
        f"its constant is {config.const_size[0]}x{config.const_size[1]}": config.const_size != (4, 4),
        f"its images have {config.img_channels} channels": config.img_channels != 3,
        "its z, w and mapping layers differ in width": len(
            {config.z_dim, config.w_dim, config.layer_features or config.w_dim}
        )
        > 1,
    }
    if found := [problem for problem, holds in problems.items() if holds]:
        raise CheckpointError(f"{generator.name}: rosinality's layout cannot hold this generator: {', '.join(found)}")
    ours, rescale = generator.state_dict(), config.lr_multiplier / LR_MULTIPLIER
    state: dict[str, Tensor] = {}
    for key, (name, before, after) in generator_names(config.mapping_layers, len(config.channels)).items():
        tensor = ours[name] * rescale if name.startswith("mapping.fc") and rescale != 1 else ours[name]
        state[key] = tensor.reshape(*[1] * before, *tensor.shape, *[1] * after).detach().cpu().contiguous().clone()
    for key in kernel_names(len(config.channels)):
        state[key] = (generator.synthesis.resample_filter * UP_GAIN).cpu()
    return state, _losses(config)


def _losses(config: StyleGAN2Config) -> tuple[str, ...]:
    notes = []
    if config.conv_clamp is not None:
        notes.append(f"the clamp of activations at {config.conv_clamp:g} is lost: rosinality's code has none")
    if config.lr_multiplier != LR_MULTIPLIER:
        notes.append(
            f"mapping weights rescaled from learning-rate multiplier {config.lr_multiplier:g} to {LR_MULTIPLIER}"
        )
    tables = [tuple(512 if i < 4 else 256 * m // 2 ** (i - 4) for i in range(len(config.channels))) for m in (1, 2)]
    if config.channels not in tables:
        notes.append("rosinality's code has a fixed table of channels; these widths need it changed")
    return tuple(notes)
