"""StyleGAN3 networks recorded in NVIDIA's pickles, and as bare state dicts.

Of a record, the configuration is read from the attributes of its modules, and what follows from it is compared with
what every layer has on record. Of a state dict, it is told by the names of the layers (`L3_52_512`: number, size,
channels) and by shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from latentopt.checkpoints.missing import W_AVG, mean_of_w
from latentopt.checkpoints.nvidia import Attributes, read_record, shared_lr_multiplier, whole
from latentopt.checkpoints.nvidia_state import likely_lr_multiplier
from latentopt.checkpoints.persistence import Record
from latentopt.checkpoints.weights import NetworkWeights
from latentopt.errors import CheckpointError
from latentopt.generators.ops import fir_filter
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.generators.stylegan3_config import LayerGeometry, StyleGAN3Config
from latentopt.generators.stylegan3_layer import designed_filters

LAYER = re.compile(r"synthesis\.(L(\d{1,3})_(\d{1,5})_(\d{1,6}))\.weight")
TRANSFORM = "synthesis.input.transform"
OF_SYNTHESIS = ("num_critical", "margin_size", "output_scale", "num_fp16_res")
OF_CONSTRUCTOR = ("first_stopband", "last_stopband_rel")  # on record where they are not the usual ones
CLOSE = 1e-4  # of designed filters to stored ones

State = dict[str, Tensor]


def weights_of_record(record: Record, where: str) -> NetworkWeights[StyleGAN3]:
    """Configuration and weights of a recorded generator.

    Raises CheckpointError for settings that latentopt cannot express, or a damaged record.
    """
    attributes, state = read_record(record, where)
    with whole(state, where, "StyleGAN3"):
        config = _recorded_config(attributes, state, where)
        _check_recorded(config, attributes, where)
    _check_magnitudes(state, where)
    return NetworkWeights(config, state, fir_filter())


def _recorded_config(attributes: Attributes, state: Mapping[str, Tensor], where: str) -> StyleGAN3Config:
    synthesis = attributes["synthesis"]
    named = synthesis.get("_init_kwargs", {})
    given: dict[str, Any] = {key: synthesis[key] for key in OF_SYNTHESIS if key in synthesis}
    given |= {key: float(named[key]) for key in OF_CONSTRUCTOR if key in named}
    layers = [attributes[f"synthesis.{name}"] for name in synthesis["layer_names"]]
    first, last = layers[0], layers[-1]
    return StyleGAN3Config(
        img_resolution=int(synthesis["img_resolution"]),
        channels=tuple(int(layer["out_channels"]) for layer in layers[:-1]),
        img_channels=int(last["out_channels"]),
        lr_multiplier=shared_lr_multiplier(attributes, where),
        conv_kernel=int(first["conv_kernel"]),
        radial_filters=any(layer["down_radial"] for layer in layers),
        first_cutoff=float(first["in_cutoff"]),
        filter_size=int(first["up_taps"]) // int(first["up_factor"]),
        lrelu_upsampling=int(first["tmp_sampling_rate"] // max(first["in_sampling_rate"], first["out_sampling_rate"])),
        conv_clamp=None if first["conv_clamp"] is None else float(first["conv_clamp"]),
        **given,
        **_mapping_sizes(state),
    )


def _mapping_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    embed, first = state.get("mapping.embed.weight"), state["mapping.fc0.weight"]
    return {
        "z_dim": first.shape[1] - (0 if embed is None else embed.shape[0]),
        "w_dim": state["synthesis.input.affine.weight"].shape[1],
        "c_dim": 0 if embed is None else embed.shape[1],
        "mapping_layers": sum(key.startswith("mapping.fc") and key.endswith(".weight") for key in state),
    }


def _on_record(g: LayerGeometry, clamp: float | None) -> dict[str, Any]:
    """A layer's attributes by NVIDIA's names."""
    return {
        "is_torgb": g.is_torgb,
        "in_channels": g.in_channels,
        "out_channels": g.out_channels,
        "in_size": [g.in_size] * 2,
        "out_size": [g.out_size] * 2,
        "in_sampling_rate": g.in_rate,
        "out_sampling_rate": g.out_rate,
        "tmp_sampling_rate": g.between_rate,
        "in_cutoff": g.in_cutoff,
        "out_cutoff": g.out_cutoff,
        "in_half_width": g.in_half_width,
        "out_half_width": g.out_half_width,
        "conv_kernel": g.kernel,
        "conv_clamp": clamp,
        "up_factor": g.up,
        "down_factor": g.down,
        "up_taps": g.up_taps,
        "down_taps": g.down_taps,
        "down_radial": g.radial,
        "padding": [*g.pad, *g.pad],
    }


def _check_recorded(config: StyleGAN3Config, attributes: Attributes, where: str) -> None:
    """Refuse what would load without complaint and draw something else."""
    names = [g.name for g in config.layers]
    if list(attributes["synthesis"]["layer_names"]) != names:
        raise CheckpointError(
            f"{where}: its layers are {attributes['synthesis']['layer_names']}, where its settings make {names}"
        )
    expected = {f"synthesis.{g.name}": _on_record(g, config.conv_clamp) for g in config.layers}
    expected["synthesis.input"] = {
        "size": [config.sizes[0]] * 2,
        "sampling_rate": config.rates[0],
        "bandwidth": config.first_cutoff,
    }
    for path, values in expected.items():
        for name, value in values.items():
            if not _same(attributes[path][name], value):
                found = attributes[path][name]
                raise CheckpointError(f"{where}: {path} has {name} {found!r}, not {value!r}: not supported")


def _same(found: object, value: object) -> bool:
    if isinstance(value, list):
        return isinstance(found, list | tuple) and len(found) == len(value) and all(map(_same, found, value))
    if isinstance(value, float | int) and isinstance(found, float | int):
        return math.isclose(found, value, rel_tol=1e-6)
    return found == value


def weights_of_state(theirs: Mapping[str, Tensor], average: Tensor | None, where: str) -> NetworkWeights[StyleGAN3]:
    """Configuration and weights of a generator in a state dict; `notes` say what was inferred.

    `average`, a mean of w [C], is used where the state has none. Raises CheckpointError for weights that are not one's.
    """
    state = dict(theirs)
    with whole(state, where, "StyleGAN3"):
        if "mapping.fc0.weight" not in state:
            raise CheckpointError(
                f"{where}: its synthesis network has no mapping network beside it; save both together"
            )
        config = _likely_config(state, where)
        notes: tuple[str, ...] = (
            f"a state dict without settings: taken are a learning-rate multiplier of {config.lr_multiplier:g} in the "
            f"mapping (by the size of its weights), {config.num_critical} critically sampled layers (by the sizes of "
            "all), NVIDIA's usual cutoffs, clamp and output scale",
        )
        notes += _add_computed(state, config)
    if average is not None and W_AVG not in state:
        state[W_AVG], more = mean_of_w(average, config.w_dim, where)
        notes += more
    _check_magnitudes(state, where)
    return NetworkWeights(config, state, fir_filter(), notes)


def _likely_config(state: Mapping[str, Tensor], where: str) -> StyleGAN3Config:
    """The configuration, the usual one first, whose layers have the names of those in the state dict."""
    found = sorted((int(m[2]), int(m[3]), int(m[4]), m[1]) for m in map(LAYER.fullmatch, state) if m)
    names = [name for *_, name in found]
    if [number for number, *_ in found] != list(range(len(found))) or len(found) < 2:
        raise CheckpointError(f"{where}: layers of its StyleGAN3 are missing; it has {', '.join(names) or 'none'}")
    layers = len(found) - 1
    filters = [state.get(f"synthesis.{name}.down_filter") for name in names]
    radial = [i for i, f in enumerate(filters) if f is not None and f.ndim == 2]
    kernel = state[f"synthesis.{names[0]}.weight"].shape[-1]
    told = any(f is not None for f in filters)
    settings = {
        **_mapping_sizes(state),
        "img_resolution": found[-1][1],
        "channels": tuple(channels for _, _, channels, _ in found[:-1]),
        "img_channels": found[-1][2],
        "lr_multiplier": likely_lr_multiplier(state["mapping.fc0.weight"]),
        "conv_kernel": kernel,
        "radial_filters": bool(radial) if told else kernel == 1,  # as in R
    }
    for critical, margin in _candidates(layers, found[0][1]):
        try:
            config = StyleGAN3Config(**settings, num_critical=critical, margin_size=margin)
        except ValueError:
            continue
        fits = [g.name for g in config.layers] == names
        if fits and (not radial or [i for i, g in enumerate(config.layers) if g.radial] == radial):
            return config
    raise CheckpointError(
        f"{where}: sizes of its layers ({', '.join(names)}) are those of no StyleGAN3 with usual cutoffs; give the "
        "pickle that it was taken from"
    )


def _candidates(layers: int, size: int) -> Iterator[tuple[int, int]]:
    """Numbers of critically sampled layers and margins, the usual ones first."""
    margins = dict.fromkeys([10, *((size - (1 << k)) // 2 for k in range(2, 8) if size - (1 << k) >= 0)])
    for margin in margins:
        yield from ((critical, margin) for critical in dict.fromkeys([min(2, layers - 1), *range(layers)]))


def _add_computed(state: State, config: StyleGAN3Config) -> tuple[str, ...]:
    """What follows from the configuration, where the state dict lacks it; notes on that, and on filters of another
    design, which are used as they are.
    """
    usual = {f"synthesis.{g.name}.{name}": f for g in config.layers for name, f in designed_filters(g).items()}
    lacking = [key for key in usual if key not in state]
    others = [key for key, f in usual.items() if key in state and not _alike(f, state[key])]
    state |= {key: usual[key] for key in lacking}
    notes: tuple[str, ...] = ()
    if lacking:
        notes += (f"{len(lacking)} filters are not in the file: the usual ones are used",)
    if others:
        notes += (f"{len(others)} filters are not of the usual design ({others[0]}): they are used as they are",)
    if TRANSFORM not in state:
        state[TRANSFORM] = torch.eye(3)
        notes += ("the file has no transform of the input: pictures are not moved",)
    return notes


def _alike(f: Tensor, stored: Tensor) -> bool:
    return f.shape == stored.shape and bool(torch.allclose(f, stored.float(), atol=CLOSE * float(f.abs().max())))


def _check_magnitudes(state: Mapping[str, Tensor], where: str) -> None:
    for key, value in state.items():
        if key.endswith(".magnitude_ema") and not bool((value > 0).all()):
            raise CheckpointError(f"{where}: {key} is {value.tolist()}, where a mean of squares belongs; it is damaged")
