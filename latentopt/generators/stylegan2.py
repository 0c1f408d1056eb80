"""The StyleGAN2 generator: configuration, mapping and synthesis, and what the rest of latentopt asks of any generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from latentopt.generators.layers import MappingNetwork
from latentopt.generators.synthesis import SynthesisNetwork
from latentopt.types import GeneratorInputs


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
    """A StyleGAN2 generator; satisfies `latentopt.protocols.Generator`.

    `mapping(z [B,Z], c) -> w [B,C]`; `synthesis(GeneratorInputs) -> image [B,3,H,W]`. State-dict names follow the
    stylegan2-ada layout, with one `synthesis.resample_filter` for all layers.
    """

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
        """Every weight that `GeneratorInputs.deltas` may change, with its shape."""
        return {f"synthesis.{name}": tuple(p.shape) for name, p in self.synthesis.named_parameters()}

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
