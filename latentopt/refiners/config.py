"""What a refiner is, in a few plain values, and where in a generator it sits."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from latentopt.errors import CheckpointError, UsageError
from latentopt.files.schema import check_sizes, checked_fields, parse_json
from latentopt.protocols import Generator
from latentopt.refiners import FORMS, KINDS, READERS
from latentopt.types import GeneratorInputs

PAPER_TAP = 64  # pixels of the features that are refined, of pictures of 256 and more
LARGEST = 4096  # channels, pixels: a damaged file cannot ask for more
MOST_FACTOR = 4  # pictures are read at this many times the tap's size at most: 256 for 64, as in the papers


class Layer(NamedTuple):
    """An activation of a generator: its name, its channels and its height and width."""

    name: str
    channels: int
    size: tuple[int, int]


@dataclass(frozen=True)
class RefinerConfig:
    """The architecture of a refiner. Raises ValueError for what cannot be built.

    kind         styleres, or warpres: the same with the flow that warps the residual
    form         plain: as in the WarpRes paper; gated: as in StyleRes's released code
    layers       names of the activations that are read: coarse, middle, and the one that residuals are added to
    channels     of these; sizes: their heights and widths, two numbers a layer
    reader       what reads the picture: stem, trained with the rest; ir-se-50: the first stages of that encoder
    read_width   channels of what it reads
    image_size   (H,W) that pictures are brought to for it
    width        channels within E1 and, in the plain form, E2; 128 in the paper, 512 in the released code
    flow_width   channels within the flow network
    """

    kind: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    sizes: tuple[int, ...]
    image_size: tuple[int, int]
    form: str = "plain"
    reader: str = "stem"
    read_width: int = 64
    width: int = 64
    flow_width: int = 32

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        for name, known in (("kind", KINDS), ("form", FORMS), ("reader", READERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")
        for name in ("channels", "sizes", "image_size", "read_width", "width", "flow_width"):
            check_sizes(name, getattr(self, name), 1, LARGEST)
        count = 3 if self.kind == "warpres" else 1
        if (len(self.layers), len(self.channels), len(self.sizes)) != (count, count, 2 * count):
            raise ValueError(f"a {self.kind} refiner reads {count} activations, not {len(self.layers)}")
        (height, width), (h, w) = self.image_size, self.tap.size
        factor = height // h
        if factor < 1 or factor & (factor - 1) or (height, width) != (h * factor, w * factor):
            raise ValueError(f"image_size {self.image_size} is no power of 2 times the tap's {self.tap.size}")
        if self.reader == "ir-se-50" and (factor != MOST_FACTOR or self.read_width != 128):
            raise ValueError("ir-se-50 reads 128 channels at a quarter of the picture's size")

    @property
    def taps(self) -> list[Layer]:
        """The activations that are read, coarse to fine."""
        pairs = zip(self.sizes[::2], self.sizes[1::2], strict=True)
        return [Layer(*entry) for entry in zip(self.layers, self.channels, pairs, strict=True)]

    @property
    def tap(self) -> Layer:
        """The activation that residuals are added to."""
        return self.taps[-1]

    @staticmethod
    def for_generator(generator: Generator, kind: str, tap: int | None = None, **changes: object) -> RefinerConfig:
        """A refiner of `kind` for `generator`, of features `tap` pixels high (see `tap_layers`).

        Raises UsageError for a tap that the generator does not have, ValueError for other settings.
        """
        layers = tap_layers(generator, tap)
        if kind == "styleres":
            layers = layers[-1:]
        (height, width), (h, w) = generator.resolution, layers[-1].size
        factor = min(MOST_FACTOR, 2 ** int(math.log2(min(height // h, width // w))))
        settings: dict[str, Any] = {
            "kind": kind,
            "layers": tuple(layer.name for layer in layers),
            "channels": tuple(layer.channels for layer in layers),
            "sizes": tuple(side for layer in layers for side in layer.size),
            "image_size": (h * factor, w * factor),
        }
        return RefinerConfig(**(settings | changes))

    def check_fits(self, generator: Generator, where: str) -> None:
        """Raise CheckpointError where the generator has not these activations."""
        known = {layer.name: layer for layer in activations(generator)}
        for layer in self.taps:
            if known.get(layer.name) != layer:
                has = known.get(layer.name)
                found = "does not have it" if has is None else f"has {has.channels} channels of {has.size} there"
                raise CheckpointError(
                    f"{where}: refines {layer.channels} channels of {layer.size} at {layer.name}; "
                    f"{generator.name!r} {found}"
                )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> RefinerConfig:
        """Raises ValueError for what is no such configuration."""
        return parse_json(text, RefinerConfig)


@torch.no_grad()
def activations(generator: Generator) -> list[Layer]:
    """The outputs of the convolutions, from coarse to fine."""
    centre = GeneratorInputs(generator.broadcast(generator.w_avg[None]))
    found = generator.activations_of(centre, list(generator.convolutions))
    return [Layer(name, x.shape[1], (x.shape[2], x.shape[3])) for name, x in found.items()]


def tap_layers(generator: Generator, height: int | None = None) -> list[Layer]:
    """What a refiner of features `height` pixels high reads: the last convolutions of a quarter and of half that size,
    and the first of the size itself, after which residuals are added, as in StyleRes's code.

    By default the height is 64 for pictures of 256 and more, as in the papers, and half the picture's for smaller ones;
    or the next that the generator allows. Raises UsageError where it has none of one of these sizes.
    """
    layers = activations(generator)
    heights = sorted({layer.size[0] for layer in layers})
    allowed = [size for size in heights if {size // 2, size // 4} <= set(heights)]
    if height is None:
        wanted = PAPER_TAP if heights[-1] >= 4 * PAPER_TAP else heights[-1] // 2
        height = next((size for size in allowed if size >= wanted), wanted)
    if height not in allowed:
        known = ", ".join(map(str, allowed)) or "none"
        raise UsageError(
            f"a refiner at {height} pixels needs features of {height // 4}, {height // 2} and {height}; those of "
            f"{generator.name!r} allow {known}"
        )
    coarse, middle = ([layer for layer in layers if layer.size[0] == height // k][-1] for k in (4, 2))
    return [coarse, middle, next(layer for layer in layers if layer.size[0] == height)]
