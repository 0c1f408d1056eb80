"""What an encoder is, in a few plain values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from latentopt.encoders import KINDS
from latentopt.files.schema import check_sizes, checked_fields, parse_json
from latentopt.protocols import Generator

BACKBONES = ("ir-se-50", "resnet-34", "small")
HEADS = ("pyramid", "simple", "w", "w+")
SMALLEST = 16  # pixels a side: the backbones halve their maps four times
LARGEST = 1024  # rows, channels, pixels: a damaged file cannot ask for more


@dataclass(frozen=True)
class EncoderConfig:
    """The architecture of an encoder, and how its codes are meant. Raises ValueError for what cannot be built.

    kind                 psp: codes of all rows; e4e: a base code and offsets; restyle-*: the same as a change of the
                         previous code, from the picture and what was drawn so far; w: one code for all rows
    backbone             ir-se-50, resnet-34 (both for 256x256 pictures) or small (64x64)
    heads                pyramid: on three maps; simple: all on the coarse map; w, w+: linear, on the pooled coarse map
    in_channels          3, or 6 for a picture followed by its reconstruction
    image_size           (H,W) that pictures are brought to
    start_from_average   whether the codes are relative to the average latent
    stage                e4e: the last row whose offset was trained; None: all
    widths               channels of the small backbone: stem, fine, middle and coarse map
    head_width           channels within the heads; None: w_dim, as published
    groups               the first row read from the middle map, and the first from the fine map
    """

    kind: str
    num_ws: int
    w_dim: int
    backbone: str = "small"
    heads: str = "pyramid"
    in_channels: int = 3
    image_size: tuple[int, int] = (64, 64)
    start_from_average: bool = True
    stage: int | None = None
    widths: tuple[int, int, int, int] = (32, 64, 96, 128)
    head_width: int | None = None
    groups: tuple[int, int] = (3, 7)

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        for name, known in (("kind", KINDS), ("backbone", BACKBONES), ("heads", HEADS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")
        for name in ("num_ws", "w_dim", "in_channels", "image_size", "widths", "head_width"):
            check_sizes(name, getattr(self, name), SMALLEST if name == "image_size" else 1, LARGEST)
        if any(width % 8 for width in self.widths):
            raise ValueError(f"widths must be multiples of 8, not {self.widths}")
        if not 0 <= (self.stage or 0) < self.num_ws or min(self.groups) < 0:
            raise ValueError(f"groups {self.groups} and stage {self.stage} must be rows of the code")
        if self.in_channels != (6 if self.iterative else 3):
            raise ValueError(f"an encoder of kind {self.kind} takes {6 if self.iterative else 3} channels")
        if (self.kind == "w") != (self.heads == "w"):
            raise ValueError(f"heads {self.heads!r} do not go with kind {self.kind!r}")
        if self.progressive and self.heads == "w+":
            raise ValueError("e4e's base code and offsets need one head a row: pyramid or simple")

    @property
    def iterative(self) -> bool:
        """Whether it corrects an earlier code (ReStyle)."""
        return self.kind.startswith("restyle-")

    @property
    def progressive(self) -> bool:
        """Whether the rows are a base code and offsets (e4e)."""
        return self.kind.endswith("e4e")

    @staticmethod
    def for_generator(generator: Generator, kind: str, backbone: str = "small", **changes: object) -> EncoderConfig:
        """An encoder of `kind` for `generator`: ReStyle's on simple heads (section 3.1), the others on a pyramid."""
        iterative = kind.startswith("restyle-")
        settings: dict[str, Any] = {
            "kind": kind,
            "num_ws": generator.num_ws,
            "w_dim": generator.w_dim,
            "backbone": backbone,
            "heads": "w" if kind == "w" else "simple" if iterative else "pyramid",
            "in_channels": 6 if iterative else 3,
            "image_size": _small_size(generator.resolution) if backbone == "small" else (256, 256),
            "head_width": 64 if backbone == "small" else None,
        }
        return EncoderConfig(**(settings | changes))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> EncoderConfig:
        """Raises ValueError for what is no such configuration."""
        return parse_json(text, EncoderConfig)


def _small_size(resolution: tuple[int, int]) -> tuple[int, int]:
    """The generator's, halved until the longer side is at most 64; each side at least SMALLEST."""
    height, width = resolution
    while max(height, width) > 64:
        height, width = height // 2, width // 2
    return max(height, SMALLEST), max(width, SMALLEST)
