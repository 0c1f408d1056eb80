"""From a configuration and a state dict with the released names to a net whose weights are all there and finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.encoder import EncoderNet
from latentopt.errors import CheckpointError

LISTED = 5  # names in a message
LARGEST = 1 << 30  # numbers; the released encoders have up to 2.7e8, and a tiny file can claim any shape


def build_net(config: EncoderConfig, state: Mapping[str, Any], where: str) -> EncoderNet:
    """The net in evaluation mode, float32, on the CPU, without gradients; every weight comes from `state`.

    Raises CheckpointError for names that are missing or left over, other shapes, and values that are not finite.
    """
    with torch.device("meta"):  # takes no memory, whatever the configuration asks for
        net = EncoderNet(config)
    official, wanted = net.official_names(), net.state_dict()
    if (size := sum(tensor.numel() for tensor in wanted.values())) > LARGEST:
        raise CheckpointError(f"{where}: an encoder of {size:,} numbers; more than {LARGEST:,} are not read")
    names = {official[name]: name for name in wanted}
    _check_names(names, state, where)
    wrong = [
        f"{key} {_shape(state[key])} instead of {tuple(wanted[name].shape)}"
        for key, name in names.items()
        if not isinstance(state[key], Tensor) or state[key].shape != wanted[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{where}: {len(wrong)} weights have other shapes: {_first(wrong)}")
    broken = [key for key in names if not torch.isfinite(state[key]).all()]
    if broken:
        raise CheckpointError(f"{where}: {len(broken)} weights are not finite: {_first(broken)}; the file is damaged")
    values = {name: state[key].detach().to("cpu", wanted[name].dtype).contiguous() for key, name in names.items()}
    net.load_state_dict(values, strict=True, assign=True)
    return net.eval().requires_grad_(False)


def _check_names(wanted: Iterable[str], found: Iterable[str], where: str) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    parts = [
        f"{len(keys)} {word}: {_first(keys)}" for keys, word in ((missing, "missing"), (extra, "unexpected")) if keys
    ]
    if parts:
        raise CheckpointError(f"{where}: the encoder's weights do not fit: {'; '.join(parts)}")


def rows_of_average(average: object, config: EncoderConfig, where: str) -> Tensor:
    """An average latent (C,), (1,C) or (K,C), as released files hold it -> [K,C]. Raises CheckpointError."""
    taken = f"[{config.w_dim}], [1,{config.w_dim}] or [{config.num_ws},{config.w_dim}]"
    if not isinstance(average, Tensor) or not average.is_floating_point():
        raise CheckpointError(f"{where}: its latent_avg is a {type(average).__name__}, not numbers {taken}")
    rows = average.detach().cpu().float().reshape(-1, average.shape[-1]) if 1 <= average.ndim <= 3 else average
    if rows.ndim != 2 or rows.shape[0] not in (1, config.num_ws) or rows.shape[1] != config.w_dim:
        raise CheckpointError(f"{where}: its latent_avg is {list(average.shape)}; this encoder takes {taken}")
    if not rows.isfinite().all():
        raise CheckpointError(f"{where}: its latent_avg is not finite; the file is damaged")
    return rows.expand(config.num_ws, -1).clone()


def _shape(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _first(items: list[str]) -> str:
    return ", ".join(items[:LISTED]) + (", ..." if len(items) > LISTED else "")
