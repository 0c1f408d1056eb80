"""What generators of every family share: the mean of w, truncation, copies with other weights, the fingerprint."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn

from latentopt.generators.config import NetworkConfig
from latentopt.generators.layers import MappingNetwork
from latentopt.generators.mapping_inverse import inverse
from latentopt.types import Beginning, GeneratorInputs


class Synthesis(nn.Module):
    """What the synthesis networks of all families have in common.

    low_precision  the type of the layers that may be in 16 bits; None: float32 throughout
    low_memory     large layers keep their input only, and are computed again for the gradient
    memory_format  of the activations
    """

    num_ws: int
    low_precision: torch.dtype | None = None
    low_memory: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    @abstractmethod
    def run(
        self,
        inputs: GeneratorInputs,
        noise_mode: str = "const",
        *,
        capture: Collection[str] = (),
        until_captured: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The image [B,3,H,W] and the activations named in `capture`. until_captured: nothing is drawn after the last
        of them, and what stands for the image is none.
        """


class GeneratorNetwork(nn.Module):
    """The part of `latentopt.protocols.Generator` that does not depend on the family; the members are described there.

    A family gives its networks as `mapping` and `synthesis`, and its configuration and that one's class as `config` and
    `Config`. `computed` lists the last names of tensors that follow from the configuration; the fingerprint leaves
    these out.
    """

    Config: type[NetworkConfig[GeneratorNetwork]]
    family: str
    computed: tuple[str, ...] = ()
    takes_transform: bool = False
    config: NetworkConfig[GeneratorNetwork]
    mapping: MappingNetwork
    synthesis: Synthesis

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.source = name, name
        self.notes: tuple[str, ...] = ()  # what a loaded file lacked, and what was put in its place
        self.card: dict[str, object] = {}  # what is known about the training

    @property
    def z_dim(self) -> int:
        return self.mapping.z_dim

    @property
    def c_dim(self) -> int:
        return self.mapping.c_dim

    @property
    def w_dim(self) -> int:
        return len(self.w_avg)

    @property
    def w_avg(self) -> Tensor:
        """The mean of w, [C]."""
        return self.mapping.w_avg

    @property
    def device(self) -> torch.device:
        return self.w_avg.device

    @property
    @abstractmethod
    def resolution(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def architecture(self) -> dict[str, object]: ...

    @property
    def num_ws(self) -> int:
        return self.synthesis.num_ws

    def set_precision(self, dtype: torch.dtype | None) -> Self:
        self.synthesis.low_precision = None if dtype in (None, torch.float32) else dtype
        return self

    @property
    def precision(self) -> torch.dtype:
        """The type of the layers that `set_precision` is for; the others' too where it names none."""
        return self.synthesis.low_precision or self.w_avg.dtype

    @property
    def low_memory(self) -> bool:
        return self.synthesis.low_memory

    def set_low_memory(self, on: bool) -> Self:
        self.synthesis.low_memory = on
        return self

    def set_memory_format(self, memory_format: torch.memory_format) -> Self:
        """Lay out activations and weights as `torch.channels_last` (fastest in 16 bits) or contiguous."""
        self.synthesis.memory_format = memory_format
        self.synthesis.to(memory_format=memory_format)
        return self

    def compile(self) -> None:
        self.synthesis.compile()

    @property
    def tunable(self) -> dict[str, tuple[int, ...]]:
        """Every weight of the synthesis network, with its shape."""
        return {f"synthesis.{name}": tuple(p.shape) for name, p in self.synthesis.named_parameters()}

    @property
    def placing(self) -> frozenset[str]:
        return frozenset()

    def features(
        self, inputs: GeneratorInputs, capture: Sequence[str], noise_mode: str = "const"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.synthesis.run(inputs, noise_mode, capture=capture)

    def activations_of(
        self, inputs: GeneratorInputs, capture: Sequence[str], noise_mode: str = "const"
    ) -> dict[str, Tensor]:
        return self.synthesis.run(inputs, noise_mode, capture=capture, until_captured=True)[1]

    def begin(self, inputs: GeneratorInputs, changing: Set[str], noise_mode: str = "const") -> Beginning | None:
        return None

    def shown(self, activation: str) -> float:
        return 1.0

    def weight(self, name: str) -> Tensor:
        return self.get_parameter(name)

    def inverse_mapping(self, w: Tensor, c: Tensor | None = None) -> Tensor:
        return inverse(self.mapping, w, c)

    def broadcast(self, w: Tensor) -> Tensor:
        """One w for every layer: [B,C] -> [B,L,C]."""
        return w[:, None].expand(-1, self.num_ws, -1)

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """`w_avg + psi (w - w_avg)` in the first `cutoff` layers (all by default): [B,C] -> [B,L,C]."""
        ws = self.broadcast(w)
        shrunk = torch.lerp(self.w_avg.expand_as(ws), ws, psi)
        rows = torch.arange(self.num_ws, device=ws.device)[:, None] < (self.num_ws if cutoff is None else cutoff)
        return torch.where(rows, shrunk, ws)

    def in_float32(self) -> Self:
        if self.precision.itemsize >= 4:
            return self
        return copy.deepcopy(self).float().set_precision(None)

    def with_weights(self, added: Mapping[str, Tensor]) -> Self:
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
            if name.rpartition(".")[2] in self.computed:
                continue
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.numpy().tobytes())
        return digest.hexdigest()[:16]
