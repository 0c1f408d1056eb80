"""StyleRes's released checkpoint: `generator_smooth`, whose 64-pixel block holds E1 and E2, and `e4e`, which reads.

Facts: the names and shapes of its modules and the order in which they are called, from the released code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentopt.checkpoints.weights import looks_like
from latentopt.errors import CheckpointError
from latentopt.refiners.config import RefinerConfig
from latentopt.refiners.network import RefinerNet, TrainedRefiner

GENERATOR, ENCODER = "generator_smooth", "e4e"
MODULES = {  # of the block, and what they are called here
    "modify_feature_alignment": "difference.alignment",
    "modify_feature_extraction": "difference.extraction",
    "modify_feature_gates": "fusion",
}
PLACE = re.compile(r"synthesis\.b(\d+)\.(modify_feature_[a-z]+)\.(.+)")
UNUSED = "dconv3."
IMAGE = (256, 256)


def is_styleres(contents: Mapping[str, Any]) -> bool:
    """Whether the contents of a torch file are StyleRes's."""
    generator = contents.get(GENERATOR)
    return isinstance(generator, Mapping) and any(PLACE.fullmatch(str(name)) for name in generator)


def styleres_refiner(contents: Mapping[str, Any], where: str, name: str) -> TrainedRefiner:
    """The refiner of StyleRes's file. Raises CheckpointError for one that lacks something."""
    state: dict[str, Tensor] = {}
    sizes = set()
    for key, value in contents[GENERATOR].items():
        place = PLACE.fullmatch(str(key))
        if place is None or place[3].startswith(UNUSED):
            continue
        if place[2] not in MODULES or not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: {str(key)[:80]!r} is no part of StyleRes as it is known here")
        sizes.add(int(place[1]))
        state[f"{MODULES[place[2]]}.{place[3]}"] = value.float()
    if sizes != {IMAGE[0] // 4}:
        raise CheckpointError(f"{where}: refines features of {sorted(sizes)} pixels; StyleRes at 64 is read")
    size = sizes.pop()
    encoder = contents.get(ENCODER)
    if not isinstance(encoder, Mapping):
        keys = ", ".join(map(str, list(contents)[:5]))
        raise CheckpointError(f"{where}: has no {ENCODER!r}, which reads the picture; it has {keys}")
    config = _config(state, size, where)
    with torch.device("meta"):
        net = RefinerNet(config)
    wanted = net.state_dict()
    reader = {f"reader.{key}": value for key, value in encoder.items() if f"reader.{key}" in wanted}
    state |= {key: value.float() if value.is_floating_point() else value for key, value in reader.items()}
    try:
        net.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{where}: the weights of its refiner do not fit: {error}") from error
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise CheckpointError(f"{where}: {broken[0]} is not finite; the file is damaged")
    return TrainedRefiner(net.eval().requires_grad_(False), "", name)


def _config(state: Mapping[str, Tensor], size: int, where: str) -> RefinerConfig:
    first, last = (state.get(f"difference.alignment.{name}_layer.weight") for name in ("first", "out"))
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        keys = looks_like(list(state))
        raise CheckpointError(f"{where}: its E1 has no first or last layer; it looks like {keys}")
    width, drawn = first.shape[0], last.shape[0]
    try:
        return RefinerConfig(
            "styleres",
            (f"b{size}.conv0",),
            (drawn,),
            (size, size),
            IMAGE,
            form="gated",
            reader="ir-se-50",
            read_width=first.shape[1] - drawn,
            width=width,
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: its refiner cannot be built ({error})") from error
