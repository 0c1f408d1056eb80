"""The StyleGAN2 generator: configuration, mapping and synthesis, and what the rest of latentopt asks of any generator."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from latentopt.generators.layers import MappingNetwork
from latentopt.generators.synthesis import SynthesisNetwork
from latentopt.types import GeneratorInputs

LAYER = re.compile(r"(?:synthesis\.)?b(\d+)(?:\.(const|conv0|conv1|torgb|img|skip))?(?:\.|$)")
ROWS_FROM_CONV1 = {"const": 0, "conv0": -1, "skip": -1, "conv1": 0, "torgb": 1, "img": 1}


@dataclass(frozen=True)
class StyleGAN2Config:
    """The architecture of a StyleGAN2 generator. `channels` are the widths of the blocks, from coarse to fine.

    `demodulation` says where the 1e-8 of the demodulation stands: on the raw weights ("raw", as NVIDIA's code) or on the
    scaled ones ("scaled", as rosinality's, which equals 1e-8 * fan_in on the raw weights).
    """

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "const_size", tuple(self.const_size))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> StyleGAN2Config:
        return StyleGAN2Config(**json.loads(text))


class StyleGAN2(nn.Module):
    """A StyleGAN2 generator; satisfies `latentopt.protocols.Generator`, where its members are described.

    State-dict names follow the stylegan2-ada layout, with one `synthesis.resample_filter` for all layers.
    """

    family = "StyleGAN2"

    def __init__(self, config: StyleGAN2Config, name: str = "generator") -> None:
        super().__init__()
        self.config, self.name, self.source = config, name, name
        self.notes: tuple[str, ...] = ()  # what a loaded file lacked, and what was put in its place
        self.card: dict[str, object] = {}  # what is known about the training
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
    def z_dim(self) -> int:
        return self.config.z_dim

    @property
    def w_dim(self) -> int:
        return self.config.w_dim

    @property
    def c_dim(self) -> int:
        return self.config.c_dim

    @property
    def img_channels(self) -> int:
        return self.config.img_channels

    @property
    def num_ws(self) -> int:
        return self.synthesis.num_ws

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the image."""
        doublings = len(self.config.channels) - 1
        return self.config.const_size[0] << doublings, self.config.const_size[1] << doublings

    @property
    def w_avg(self) -> Tensor:
        """The mean of w, [C]."""
        return self.mapping.w_avg

    @property
    def device(self) -> torch.device:
        return self.mapping.w_avg.device

    @property
    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """The size of each layer's noise map, from coarse to fine."""
        return {name: tuple(layer.noise_const.shape) for name, layer in self.synthesis.layers.items()}

    @property
    def noise_const(self) -> dict[str, Tensor]:
        """The noise maps stored with the weights, [1,1,h,w] each."""
        return {name: layer.noise_const[None, None] for name, layer in self.synthesis.layers.items()}

    @property
    def tunable(self) -> dict[str, tuple[int, ...]]:
        """Every weight of the synthesis network, with its shape."""
        return {f"synthesis.{name}": tuple(p.shape) for name, p in self.synthesis.named_parameters()}

    @property
    def layers(self) -> dict[str, int]:
        """`b8.conv0` and `b8.torgb`, with their rows of ws."""
        return {name: row for name, (row, _) in self.synthesis.modulated.items()}

    @property
    def activations(self) -> dict[str, int]:
        """Layers (`b8.conv0`), block outputs (`b8`) and skip images (`b8.img`), with their rows of ws."""
        found = {}
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

    def weight(self, name: str) -> Tensor:
        return self.get_parameter(name)

    def affine(self, layer: str) -> Tensor:
        return self.synthesis.modulated[layer][1].affine.weight

    def inverse_mapping(self, w: Tensor, c: Tensor | None = None) -> Tensor:
        return self.mapping.inverse(w, c)

    def styles(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        given = inputs.styles or {}
        return {
            name: given[name]
            if name in given
            else layer.affine(inputs.ws[:, row], inputs.deltas, f"synthesis.{name}.affine")
            for name, (row, layer) in self.synthesis.modulated.items()
        }

    def broadcast(self, w: Tensor) -> Tensor:
        """One w for every layer: [B,C] -> [B,L,C]."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """`w_avg + psi (w - w_avg)` in the first `cutoff` layers (all by default): [B,C] -> [B,L,C]."""
        ws = self.broadcast(w)
        shrunk = torch.lerp(self.w_avg.expand_as(ws), ws, psi)
        rows = torch.arange(self.num_ws, device=ws.device)[:, None] < (self.num_ws if cutoff is None else cutoff)
        return torch.where(rows, shrunk, ws)

    def features(
        self, inputs: GeneratorInputs, capture: Sequence[str], noise_mode: str = "const"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The image and the named activations: layers (`b8.conv0`), block outputs (`b8`), skip images (`b8.img`)."""
        return self.synthesis.run(inputs, noise_mode, capture=capture)

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

    def set_precision(self, dtype: torch.dtype | None, blocks: int | None = None) -> StyleGAN2:
        """Run the last `blocks` blocks (all but the first by default) in `dtype`; None is float32 throughout."""
        self.synthesis.low_precision = None if dtype in (None, torch.float32) else dtype
        self.synthesis.low_precision_blocks = len(self.config.channels) if blocks is None else blocks
        return self

    @property
    def precision(self) -> torch.dtype:
        """The type of the blocks that `set_precision` names; the others' too where it names none."""
        return self.synthesis.low_precision or self.w_avg.dtype

    def set_memory_format(self, memory_format: torch.memory_format) -> StyleGAN2:
        """Lay out activations and weights as `torch.channels_last` (fastest in 16 bits) or `torch.contiguous_format`."""
        self.synthesis.memory_format = memory_format
        self.synthesis.to(memory_format=memory_format)
        return self

    def compile(self) -> None:
        self.synthesis.compile()

    def in_float32(self) -> StyleGAN2:
        if self.precision.itemsize >= 4:
            return self
        return copy.deepcopy(self).float().set_precision(None)

    def with_weights(self, added: Mapping[str, Tensor]) -> StyleGAN2:
        new = copy.deepcopy(self).float()
        new.__dict__.pop("fingerprint", None)  # computed once from the weights, which change here
        with torch.no_grad():
            for name, x in added.items():
                new.weight(name).add_(x.to(new.device))
        return new

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights: statistics, directions and deltas carry it. Independent of device and file format.

        Computed once: do not change the weights of a generator whose fingerprint was read.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            if name.endswith("resample_filter"):
                continue
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()[:16]
