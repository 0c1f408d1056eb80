"""Single channels of StyleSpace: editing by one, and finding those that move one attribute.

Source: Wu, Lischinski and Shechtman 2021, "StyleSpace Analysis". n samples, I channels of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.scaling import sample_codes
from latentopt.errors import UsageError
from latentopt.judge.protocol import AttributeJudge
from latentopt.judge.protocol import read as read_judge
from latentopt.protocols import Generator
from latentopt.registry import nearest
from latentopt.types import ADDS, GeneratorInputs

PREFIX = "s:"
BATCH = 64
EXTREME = 0.02  # of the samples, on either side, that stand for an attribute (the paper takes the top and bottom 2%)


@dataclass(frozen=True)
class Channel:
    """An edit of one number of a layer's style; strength 1 is a standard deviation `std` of it over samples."""

    layer: str
    channel: int
    std: float
    width: int  # channels of the layer

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.layer}:{self.channel}"

    @staticmethod
    def parse(name: str, generator: Generator) -> Channel:
        """`s:b32.conv1:45`. Raises UsageError for a layer or a channel that the generator does not have."""
        parts = name.removeprefix(PREFIX).split(":")
        if len(parts) != 2 or not parts[1].isdecimal():
            raise UsageError(f"{name!r} is no channel of the style space; write it as s:LAYER:NUMBER")
        layer, channel = parts[0], int(parts[1])
        if layer not in generator.layers:
            raise UsageError(f"{name}: no layer {layer!r}{nearest(layer, list(generator.layers))}")
        values = sampled_styles(generator, sample_codes(generator), [layer])[layer]
        if channel >= values.shape[1]:
            raise UsageError(f"{name}: layer {layer} has the channels 0 to {values.shape[1] - 1}")
        return Channel(layer, channel, values[:, channel].std().item(), values.shape[1])

    def edit(self, inputs: GeneratorInputs, strength: float, layers: Sequence[int] | None = None) -> GeneratorInputs:
        """`inputs` with the channel moved, everything else untouched; `-strength` goes back. Raises UsageError."""
        if layers is not None:
            raise UsageError(f"{self.name}: a channel belongs to its own layer; leave the rows (@ROWS, --layers) out")
        if not math.isfinite(strength):
            raise UsageError(f"{self.name}: a strength is a finite number, not {strength}")
        key, styles = ADDS + self.layer, dict(inputs.styles or {})
        added = styles[key].clone() if key in styles else inputs.ws.new_zeros(len(inputs), self.width)
        added[..., self.channel] += strength * self.std
        return inputs.replace(styles={**styles, key: added})


def with_channels(
    directions: Mapping[str, Direction], names: Iterable[str], generator: Generator
) -> dict[str, Direction | Channel]:
    """`directions` and the channels among the `names` of edits. Raises UsageError as `Channel.parse` does."""
    channels = {name: Channel.parse(name, generator) for name in names if name.startswith(PREFIX)}
    return {**directions, **channels}


@torch.no_grad()
def sampled_styles(generator: Generator, codes: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The styles [n,I] of samples w [n,C], on the CPU."""
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for w in codes.to(generator.device, generator.w_avg.dtype).split(BATCH):
        styles = generator.styles(GeneratorInputs(generator.broadcast(w)))
        for layer in layers:
            found[layer].append(styles[layer].cpu())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


@dataclass(frozen=True)
class Found:
    """A channel that goes with an attribute: `score` is the mean of its standardised values where the attribute is
    strong, less that where it is weak, over their deviation; with its sign.
    """

    name: str
    score: float


def find_channels(
    generator: Generator,
    judge: AttributeJudge,
    attribute: str,
    samples: int = 2000,
    top: int = 10,
    seed: int = 0,
) -> list[Found]:
    """The channels that tell best where an attribute is strong among the generator's samples, best first.

    The judge reads the samples' pictures; those with the most and with the least of the attribute are compared
    (section 4.2 of the paper, which compares a few positive examples with the mean of all). Raises UsageError.
    """
    names = list(judge.attributes)
    if attribute not in names:
        raise UsageError(f"no attribute {attribute!r}{nearest(attribute, names)}")
    codes = sample_codes(generator, seed, samples)
    values = torch.cat([_read(generator, judge, w)[:, names.index(attribute)] for w in codes.split(BATCH)])
    order = values.argsort()
    count = max(2, round(EXTREME * samples))
    if len(values) < 2 * count:
        raise UsageError(f"{samples} samples are too few; take at least {2 * count}")
    weak, strong = order[:count], order[-count:]
    found = []
    for layer, styles in sampled_styles(generator, codes, list(generator.layers)).items():
        unit = (styles - styles.mean(dim=0)) / styles.std(dim=0).clamp_min(1e-12)
        gap = unit[strong].mean(dim=0) - unit[weak].mean(dim=0)
        spread = (unit[strong].var(dim=0) + unit[weak].var(dim=0)).sqrt().clamp_min(1e-12)
        found += [Found(f"{PREFIX}{layer}:{i}", score) for i, score in enumerate((gap / spread).tolist())]
    return sorted(found, key=lambda one: -abs(one.score))[:top]


@torch.no_grad()
def _read(generator: Generator, judge: AttributeJudge, w: Tensor) -> Tensor:
    image = generator.synthesis(GeneratorInputs(generator.broadcast(w.to(generator.device))))
    return read_judge(judge, image).cpu()
