"""What the configuration of every network can do: be written as JSON, be read back, and build its network."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar, Generic, Self, TypeVar

from torch import nn

from latentopt.files.schema import check_sizes, checked_fields, parse_json

Network = TypeVar("Network", bound=nn.Module, covariant=True)

LARGEST = 1 << 20  # of any size in a configuration


@dataclass(frozen=True)
class NetworkConfig(ABC, Generic[Network]):
    """The architecture of a `Network` in plain values. Sequences are tuples, also where JSON gave a list.

    Raises ValueError for values of another type, numbers that are not finite, and sizes that no network has.
    """

    FILTER: ClassVar[str]  # the state dict's name of the FIR filter that all layers share; "": none does
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = ()  # sizes that 0 leaves out; all others are 1 at least

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
            check_sizes(name, value, 0 if name in self.MAY_BE_ZERO else 1, LARGEST)
            if isinstance(value, float) and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError for what is no such configuration."""
        return parse_json(text, cls)

    @abstractmethod
    def build(self) -> Network:
        """The network, its weights drawn at random."""

    @abstractmethod
    def least_tensors(self) -> int:
        """Fewer tensors than the network has, known without building it."""
