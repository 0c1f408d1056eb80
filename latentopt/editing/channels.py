"""Single channels of StyleSpace: editing by one, and finding those that move one attribute.

Source: Wu, Lischinski and Shechtman 2021, "StyleSpace Analysis". n samples, I channels of a layer, A attributes.

Deviation from the paper: channels that go with an attribute need not move it, since others do too in the samples that
have it. So they are moved, and ranked by what that does to the attribute.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentopt.editing.channel_trials import Trials, Watch, read_samples, unwatched
from latentopt.editing.direction import Direction
from latentopt.editing.scaling import ROUNDING, reading_scales, sample_codes
from latentopt.errors import UsageError
from latentopt.judge.protocol import AttributeJudge, check_judge, given_name, load_attribute_judge, plain
from latentopt.protocols import Generator
from latentopt.registry import nearest
from latentopt.types import ADDS, GeneratorInputs

PREFIX = "s:"
NUMBER = re.compile(r"[0-9]{1,9}")
BATCH = 64
EXTREME = 0.02  # of the samples, on either side, that stand for an attribute (the paper takes the top and bottom 2%)
SAMPLES, CANDIDATES = 2000, 1500
MOST = 100_000  # samples, whose latents are held at once
HELD = 32  # samples that channels are moved in
BOTH = [(sample, sign) for sample in range(HELD) for sign in (1, -1)]
ROUNDS = (([(0, 1), (1, -1)], 96), (BOTH[4:10], 24), (BOTH, 0))  # (moves of each channel, how many of them go on)
NOTICEABLE = 0.2  # deviations of an attribute: less is chance, or nobody sees it


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
    def parse(name: str, generator: Generator, label: int = 0) -> Channel:
        """`s:b32.conv1:45`, its deviation over samples of the class `label`.

        Raises UsageError for a layer or a channel that the generator does not have, and for one that does not vary.
        """
        parts = name.removeprefix(PREFIX).split(":")
        if len(parts) != 2 or not NUMBER.fullmatch(parts[1]):
            shown = name if len(name) <= 60 else f"{name[:60]}..."
            raise UsageError(f"{shown!r} is no channel of the style space; write it as s:LAYER:NUMBER")
        layer, channel = parts[0], int(parts[1])
        if layer not in generator.layers:
            raise UsageError(f"{name}: no layer {layer!r}{nearest(layer, list(generator.layers))}")
        values = sampled_styles(generator, sample_codes(generator, label=label), [layer])[layer]
        if channel >= values.shape[1]:
            raise UsageError(f"{name}: layer {layer} has the channels 0 to {values.shape[1] - 1}")
        std = deviations(values)[channel].item()
        if not std > 0:
            raise UsageError(f"{name}: a channel that does not vary over the samples has no strength; choose another")
        return Channel(layer, channel, std, values.shape[1])

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


def deviations(values: Tensor) -> Tensor:
    """The standard deviation [I] of styles [n,I]; 0 where they vary by rounding alone, or are no numbers."""
    std = values.std(dim=0)
    return torch.where(std > ROUNDING * values.mean(dim=0).abs(), std, 0.0)


@dataclass(frozen=True)
class Found:
    """A channel that moves an attribute.

    score     how far samples with most and with least of the attribute differ in the channel: the difference of its
              means over their deviation, with its sign
    response  what moving the channel by +3 of its deviations does to the attribute (half of the way from -3 to 3), in
              deviations of the attribute over the samples, with its sign; binary attributes move by their log-odds
    drift     the same of the other attribute that moves most, without its sign; `drifting` is its name
    """

    name: str
    score: float
    response: float = 0.0
    drift: float = 0.0
    drifting: str = ""

    @property
    def noticeable(self) -> bool:
        """Whether the attribute moves by more than chance, and so that it is seen."""
        return abs(self.response) >= NOTICEABLE


def find_channels(
    generator: Generator,
    judge: AttributeJudge | str,
    attribute: str,
    samples: int = SAMPLES,
    top: int = 10,
    seed: int = 0,
    *,
    label: int = 0,
    candidates: int = CANDIDATES,
    watch: Watch = unwatched,
) -> list[Found]:
    """The channels that move an attribute most when each is moved alone, best first.

    The judge (or its name, as `load_attribute_judge` takes it) reads the samples' pictures. Channels are scored by how
    those with the most and with the least of the attribute differ (section 4.2 of the paper, which compares a few
    positive examples with the mean of all). The `candidates` of the highest scores are moved in two samples held out,
    those that do most there in more, and the best of them in all 32. A picture of which nothing is read does not
    count.

    label: the class of the samples; watch: shows progress. Raises UsageError.
    """
    samples = _whole("samples", samples, 1, MOST)
    top, candidates = _whole("top", top, 1), _whole("candidates", candidates, 1)
    seed = _whole("seed", seed, -(2**63), 2**63 - 1)
    if isinstance(judge, str):
        judge = load_attribute_judge(judge, generator.device)
    check_judge(judge, given_name(judge))
    names = [plain(name) for name in judge.attributes]
    if plain(attribute) not in names:
        raise UsageError(f"no attribute {attribute!r}{nearest(attribute, list(judge.attributes))}")
    column = names.index(plain(attribute))
    codes = sample_codes(generator, seed, samples + 2 * HELD, label=label)  # more to try on than are needed: some may
    readings = read_samples(generator, judge, codes, watch)  # have no reading
    known = readings[:, column].isfinite()
    scales = reading_scales(readings)
    weak, strong = _extremes(readings[:samples, column], attribute, varies=bool(scales[column] > 0))
    held = samples + known[samples:].nonzero().flatten()[:HELD]
    if len(held) < HELD:
        raise UsageError(f"{attribute}: the judge finds it in {int(known.sum())} of {len(known)} samples; too few")
    scored = _scored(generator, codes[weak], codes[strong], label)
    chosen = sorted(scored, key=lambda one: -abs(one[1]))[:candidates]
    trials = Trials(generator, judge, codes[held], readings[held], scales)
    for moves, kept in ROUNDS:
        effects = trials.effects([channel for channel, _ in chosen], moves, watch)
        order = effects[:, column].abs().argsort(descending=True, stable=True)[: max(top, kept)]
        chosen, effects = [chosen[row] for row in order.tolist()], effects[order]
    return [_found(*one, effect, column, judge.attributes) for one, effect in zip(chosen, effects, strict=True)][:top]


def _whole(name: str, value: int, least: int, most: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {value!r}") from None
    if number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name} must be {limits}, not {number}")
    return number


def _extremes(values: Tensor, attribute: str, varies: bool) -> tuple[Tensor, Tensor]:
    """The samples, of readings [n], with the least and with the most of the attribute. Raises UsageError."""
    known = values.isfinite().nonzero().flatten()
    count = max(2, round(EXTREME * len(known)))
    if len(known) < 2 * count:
        raise UsageError(
            f"{attribute}: {len(known)} of {len(values)} samples in which the judge finds it are too few; it takes "
            f"{2 * count} at least"
        )
    if not varies:
        raise UsageError(f"{attribute}: the judge reads the same of all samples; no channel moves it")
    order = known[values[known].argsort(stable=True)]
    return order[:count], order[-count:]


def _scored(generator: Generator, weak: Tensor, strong: Tensor, label: int) -> list[tuple[Channel, float]]:
    """Every channel that varies, with its score by samples with the least and with the most of an attribute [m,C]."""
    layers = list(generator.layers)
    low, high = (sampled_styles(generator, codes, layers) for codes in (weak, strong))
    found = []
    for layer, values in sampled_styles(generator, sample_codes(generator, label=label), layers).items():
        gap = high[layer].mean(dim=0) - low[layer].mean(dim=0)
        scores = gap / (high[layer].var(dim=0) + low[layer].var(dim=0)).sqrt()
        for i, (std, score) in enumerate(zip(deviations(values).tolist(), scores.tolist(), strict=True)):
            if std > 0:  # dead ones cannot be moved
                found.append((Channel(layer, i, std, values.shape[1]), score if math.isfinite(score) else 0.0))
    return found


def _found(channel: Channel, score: float, effect: Tensor, column: int, attributes: Sequence[str]) -> Found:
    others = effect.abs()
    others[column] = 0.0
    most = int(others.argmax())
    drift = others[most].item()
    return Found(channel.name, score, effect[column].item(), drift, attributes[most] if drift > 0 else "")
