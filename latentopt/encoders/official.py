"""Released encoder checkpoints: pSp, e4e, ReStyle on both, and the e4e inside StyleRes files.

What a net is, is read off its weights; the options of the training (`opts`) say the rest. Facts: the four repositories'
loading code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentopt.checkpoints.weights import looks_like
from latentopt.encoders.building import build_net, rows_of_average
from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.encoder import Encoder
from latentopt.errors import CheckpointError

EXPECTED = "expected a pSp, e4e or ReStyle checkpoint: 'state_dict' with 'encoder.*' weights, 'opts', 'latent_avg'"
OTHER_TASKS = {"hypernet.": "HyperStyle's hypernetwork; its W encoder is a separate file"}


def official_encoder(contents: Mapping[str, Any], where: str, name: str) -> Encoder:
    """The encoder of a released `.pt`. Raises CheckpointError, saying what the file is, and what was expected."""
    state = _encoder_state(contents, where)
    options = _options(contents)
    notes: list[str] = []
    average = contents.get("latent_avg")
    config = _config(state, options, contents, average, where)
    net = build_net(config, state, where)
    if config.start_from_average and average is None:
        notes.append("the file has no average latent: the generator's mean of w stands in for it")
    if config.stage is not None:
        notes.append(f"saved while training: offsets of rows 1 to {config.stage} are used, later rows were not trained")
    rows = rows_of_average(average, config, where) if config.start_from_average and average is not None else None
    return Encoder(net, rows, "", name, {}, tuple(notes))


def _encoder_state(contents: Mapping[str, Any], where: str) -> dict[str, Any]:
    state = contents.get("state_dict")
    if isinstance(state, dict):
        found = {str(k).removeprefix("encoder."): v for k, v in state.items() if str(k).startswith("encoder.")}
        if found:
            return found
    if isinstance(contents.get("e4e"), dict):  # StyleRes
        return dict(contents["e4e"])
    if isinstance(state, dict):
        keys = [str(key) for key in state]
        for mark, what in OTHER_TASKS.items():
            if any(key.startswith(mark) for key in keys):
                raise CheckpointError(f"{where}: {what}; {EXPECTED}")
        raise CheckpointError(f"{where}: no encoder in it: 'state_dict' looks like {looks_like(keys)}; {EXPECTED}")
    for key in ("g_ema", "g", "d", "model"):
        if isinstance(contents.get(key), dict):
            what = looks_like([str(k) for k in contents[key]])
            raise CheckpointError(f"{where}: no encoder in it: {key!r} looks like {what}; {EXPECTED}")
    keys = [str(key) for key in contents]
    raise CheckpointError(f"{where}: no encoder in it: it looks like {looks_like(keys)}; {EXPECTED}")


def _options(contents: Mapping[str, Any]) -> dict[str, Any]:
    """`opts`, a dict or a Namespace."""
    options = contents.get("opts", {})
    options = options if isinstance(options, Mapping) else vars(options) if hasattr(options, "__dict__") else {}
    return {str(key): value for key, value in options.items()}


def _config(
    state: Mapping[str, Any], options: Mapping[str, Any], contents: Mapping[str, Any], average: object, where: str
) -> EncoderConfig:
    backbone, first = _backbone(state, where)
    heads = _head_names(state, where)
    in_channels = first.shape[1]
    if in_channels not in (3, 6):
        raise CheckpointError(
            f"{where}: an encoder of {in_channels}-channel pictures, trained for another task than inversion; "
            "expected 3 channels, or 6 for ReStyle"
        )
    num_ws, w_dim = _rows(state, heads, options, average, where), _w_dim(state, heads, where)
    kind = _kind(options, heads, in_channels, where)
    cars = str(options.get("dataset_type", "")).startswith("cars")
    try:
        return EncoderConfig(
            kind,
            num_ws,
            w_dim,
            backbone,
            heads,
            in_channels,
            image_size=(192, 256) if cars else (256, 256),
            start_from_average=in_channels == 6 or bool(options.get("start_from_latent_avg", average is not None)),
            stage=_stage(options, contents, num_ws) if kind.endswith("e4e") else None,
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: its encoder cannot be built ({error})") from error


def _backbone(state: Mapping[str, Any], where: str) -> tuple[str, Tensor]:
    for key, backbone in (("input_layer.0.weight", "ir-se-50"), ("conv1.weight", "resnet-34")):
        if isinstance(state.get(key), Tensor) and state[key].ndim == 4:
            return backbone, state[key]
    raise CheckpointError(
        f"{where}: an encoder of an unknown make: it looks like {looks_like([f'encoder.{k}' for k in state])}, but has "
        "neither IR-SE-50's 'input_layer' nor ResNet-34's 'conv1'"
    )


def _head_names(state: Mapping[str, Any], where: str) -> str:
    for mark, heads in (
        ("latlayer1.weight", "pyramid"),
        ("styles.0.linear.weight", "simple"),
        ("output_layer_2.3.weight", "w+"),
        ("linear.weight", "w"),
    ):
        if mark in state:
            return heads
    raise CheckpointError(f"{where}: an encoder without heads ('styles.*' or 'linear.*'); {EXPECTED}")


def _w_dim(state: Mapping[str, Any], heads: str, where: str) -> int:
    key = {"w": "linear.weight", "w+": "output_layer_2.3.weight"}.get(heads, "styles.0.linear.weight")
    if not isinstance(state.get(key), Tensor) or state[key].ndim != 2:
        raise CheckpointError(f"{where}: its encoder has no matrix {key!r}; the file is damaged")
    return state[key].shape[0]


def _rows(state: Mapping[str, Any], heads: str, options: Mapping[str, Any], average: object, where: str) -> int:
    """How many rows the codes have: as many as there are heads; for a single head as the generator's size says."""
    size = next((options[key] for key in ("stylegan_size", "output_size") if options.get(key)), None)
    if size is not None and (type(size) is not int or size < 8 or size & (size - 1)):
        raise CheckpointError(f"{where}: its options give the generator's size as {size!r}; expected 8, 16, ... 1024")
    by_size = None if size is None else 2 * int(math.log2(size)) - 2
    if heads in ("pyramid", "simple"):
        rows = len({key.split(".")[1] for key in state if key.startswith("styles.")})
        if by_size is not None and rows != by_size:
            raise CheckpointError(f"{where}: has {rows} heads, but its options say {by_size} (size {size})")
        return rows
    if isinstance(average, Tensor) and average.ndim == 2 and average.shape[0] > 1:
        return average.shape[0]
    return by_size or 18  # old pSp options lack the size: 1024


def _kind(options: Mapping[str, Any], heads: str, in_channels: int, where: str) -> str:
    """psp or e4e, which the weights do not show: the options tell, by the encoder's class or by e4e's own size key."""
    if heads == "w":
        return "w"
    restyle = "restyle-" if in_channels == 6 else ""
    if heads == "w+":
        return f"{restyle}psp"
    name = str(options.get("encoder_type", ""))
    if name in ("Encoder4Editing",) or "Progressive" in name or (not name and "stylegan_size" in options):
        return f"{restyle}e4e"
    if name or "output_size" in options or "learn_in_w" in options:
        return f"{restyle}psp"
    raise CheckpointError(
        f"{where}: its 'opts' do not say whether it is pSp or e4e; expected 'encoder_type' (such as "
        "'GradualStyleEncoder' or 'Encoder4Editing') in them"
    )


def _stage(options: Mapping[str, Any], contents: Mapping[str, Any], num_ws: int) -> int | None:
    """The last row whose offset was being trained when an e4e was saved; None when all were, or when it is not said.

    Released code uses all rows at inference, those whose training had not begun too.
    """
    begins, step = options.get("progressive_steps"), contents.get("global_step")
    if not isinstance(begins, list | tuple) or type(step) is not int or not all(type(b) is int for b in begins):
        return None
    stage = sum(step >= begin for begin in begins) - 1
    return stage if 0 <= stage < num_ws - 1 and len(begins) > 1 else None
