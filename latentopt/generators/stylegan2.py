"""The StyleGAN2 generator: its configuration, and what the rest of latentopt asks of a generator of any family."""

from __future__ import annotations

import math
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from latentopt.generators.config import NetworkConfig
from latentopt.generators.layers import MappingNetwork
from latentopt.generators.network import GeneratorNetwork
from latentopt.generators.styling import styled
from latentopt.generators.synthesis import SynthesisNetwork
from latentopt.types import Beginning, GeneratorInputs, place_of

LAYER = re.compile(r"(?:synthesis\.)?b(\d+)(?:\.(const|conv0|conv1|torgb|img|skip))?(?:\.|$)")
ROWS_FROM_CONV1 = {"const": 0, "conv0": -1, "skip": -1, "conv1": 0, "torgb": 1, "img": 1}


@dataclass(frozen=True)
class StyleGAN2Config(NetworkConfig["StyleGAN2"]):
    """The architecture of a StyleGAN2 generator. `channels` are the widths of the blocks, from coarse to fine.

    `demodulation` says where the 1e-8 of the demodulation stands: on the raw weights ("raw", as NVIDIA's code) or on
    the scaled ones ("scaled", as rosinality's, which equals 1e-8 * fan_in on the raw weights).
    """

    FILTER: ClassVar[str] = "synthesis.resample_filter"
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = ("c_dim", "num_fp16_res")

    z_dim: int
    w_dim: int
    channels: tuple[int, ...]
    c_dim: int = 0
    const_size: tuple[int, int] = (4, 4)
    img_channels: int = 3
    mapping_layers: int = 8
    embed_features: int | None = None
    layer_features: int | None = None
    lr_multiplier: float = 0.01
    architecture: str = "skip"
    conv_clamp: float | None = None
    demodulation: str = "raw"
    num_fp16_res: int = 0

    def build(self) -> StyleGAN2:
        return StyleGAN2(self)

    def least_tensors(self) -> int:
        return len(self.channels) + self.mapping_layers


class StyleGAN2(GeneratorNetwork):
    """A StyleGAN2 generator; satisfies `latentopt.protocols.Generator`, where its members are described.

    State-dict names follow the stylegan2-ada layout, with one `synthesis.resample_filter` for all layers.
    """

    Config = StyleGAN2Config
    family = "StyleGAN2"
    computed = ("resample_filter",)

    config: StyleGAN2Config
    synthesis: SynthesisNetwork

    def __init__(self, config: StyleGAN2Config, name: str = "generator") -> None:
        super().__init__(name)
        self.config = config
        self.mapping = MappingNetwork(
            config.z_dim,
            config.c_dim,
            config.w_dim,
            config.mapping_layers,
            config.embed_features,
            config.layer_features,
            config.lr_multiplier,
        )
        self.synthesis = SynthesisNetwork(
            config.w_dim,
            config.channels,
            config.const_size,
            config.img_channels,
            config.architecture,
            config.conv_clamp,
            config.demodulation,
        )

    @property
    def img_channels(self) -> int:
        return self.config.img_channels

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the image."""
        doublings = len(self.config.channels) - 1
        return self.config.const_size[0] << doublings, self.config.const_size[1] << doublings

    @property
    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """The size of each layer's noise map, from coarse to fine."""
        return {name: layer.size for name, layer in self.synthesis.layers.items()}

    @property
    def noise_const(self) -> dict[str, Tensor]:
        """The noise maps stored with the weights, [1,1,h,w] each."""
        return {name: layer.noise_const[None, None] for name, layer in self.synthesis.layers.items()}

    @property
    def layers(self) -> dict[str, int]:
        """`b8.conv0` and `b8.torgb`, with their rows of ws."""
        return {name: row for name, (row, _) in self.synthesis.modulated.items()}

    @property
    def activations(self) -> dict[str, int]:
        """Layers (`b8.conv0`), block outputs (`b8`) and skip images (`b8.img`), with their rows of ws."""
        found: dict[str, int] = {}
        for name, row in self.layers.items():
            block, kind = name.split(".")
            found |= {f"{block}.img": row} if kind == "torgb" else {name: row}
            found |= {block: row} if kind == "conv1" else {}
        return found

    @property
    def convolutions(self) -> dict[str, str]:
        """`b8.conv0`: `synthesis.b8.conv0.weight`."""
        return {name: f"synthesis.{name}.weight" for name in self.synthesis.layers}

    def row_of(self, name: str) -> int | None:
        """In a block of size r, conv0, conv1 and toRGB are driven by rows 2i-1, 2i and 2i+1, i = log2(r / 4); the
        toRGB's row is the next block's first too.
        """
        match = LAYER.match(name)
        if match is None:
            return None
        return max(2 * ((int(match[1]) // 4).bit_length() - 1) + ROWS_FROM_CONV1[match[2] or "conv1"], 0)

    def affine(self, layer: str) -> Tensor:
        return self.synthesis.modulated[layer][1].affine.weight

    def styles(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        return {
            name: styled(inputs.styles, name, layer, inputs.ws[:, row], inputs.deltas)
            for name, (row, layer) in self.synthesis.modulated.items()
        }

    @torch.no_grad()
    def begin(self, inputs: GeneratorInputs, changing: Set[str], noise_mode: str = "const") -> Beginning | None:
        """The blocks before the first in which something changes: every entry that may change names its block."""
        places = [LAYER.match(place_of(name.partition("/")[2])) for name in changing]
        first = min((int(place[1]) if place else 0 for place in places), default=0)
        if first <= 4 or noise_mode == "random":
            return None
        after = f"b{first // 2}"
        features = self.activations_of(inputs, (after, f"{after}.img"), noise_mode)
        return Beginning(after, features[after], features.get(f"{after}.img"))

    @property
    def architecture(self) -> dict[str, object]:
        c = self.config
        return {
            "channels": list(c.channels),
            "mapping_layers": c.mapping_layers,
            "lr_multiplier": c.lr_multiplier,
            "architecture": c.architecture,
            "conv_clamp": c.conv_clamp,
            "fp16_blocks": c.num_fp16_res,
        }

    def set_precision(self, dtype: torch.dtype | None, blocks: int | None = None) -> Self:
        """Run the last `blocks` blocks (all but the first by default) in `dtype`; None is float32 throughout."""
        self.synthesis.low_precision_blocks = len(self.config.channels) if blocks is None else blocks
        return super().set_precision(dtype)

    @property
    def gradient_bytes(self) -> int:
        """A layer keeps the convolution's input, its result, and what the activation makes of it."""
        layers = [(layer.bias.numel() * math.prod(layer.size), layer.size) for layer in self.synthesis.layers.values()]
        kept = sum(values if self.synthesis.is_recomputed(size) else 3 * values for values, size in layers)
        at_work = 3 * max(values for values, _ in layers)  # of the layer whose gradient is computed
        return (kept + at_work) * self.precision.itemsize
