"""What the configuration of every network can do: be written as JSON, be read back, and build its network."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Generic, Self, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class NetworkConfig(ABC, Generic[Network]):
    """The architecture of a `Network` in plain values. Sequences are tuples, also where JSON gave a list."""

    FILTER: ClassVar[str]  # the state dict's name of the FIR filter that all layers share

    def __post_init__(self) -> None:
        for field in fields(self):
            if str(field.type).startswith("tuple["):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    @abstractmethod
    def build(self) -> Network:
        """The network, its weights drawn at random."""

    @abstractmethod
    def least_tensors(self) -> int:
        """Fewer tensors than the network has, known without building it."""

    @abstractmethod
    def least_values(self) -> int:
        """Fewer values than the network has, but near: a configuration may not ask for more than its file holds."""


def least_values_of_mapping(z_dim: int, c_dim: int, embed: int, width: int, w_dim: int, layers: int) -> int:
    """Fewer values than a mapping network has: z_dim -> width -> ... -> w_dim, and the embedding of the labels."""
    values = z_dim * width + max(layers - 2, 0) * width**2 + (width * w_dim if layers > 1 else 0)
    return values + (embed * (c_dim + width) if c_dim else 0)
