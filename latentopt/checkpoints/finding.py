"""The networks somewhere in a file, found by the names of their weights, whatever they are wrapped in.

Dicts and lists inside each other are laid flat: `{"model": {"g_ema": state}}` has the weights `model.g_ema.*`. Where
names end like those of a generator, what stands before is its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from latentopt.checkpoints import nvidia
from latentopt.checkpoints.persistence import Record
from latentopt.errors import CheckpointError

MAX_ENTRIES = 100_000
MAX_DEPTH = 12
STANDARD = ("G_ema", "g_ema", "")  # where a generator needs no words
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
AVERAGES = ("latent_avg", "w_avg", "dlatent_avg", "mean_latent")
AVERAGED = {"ema", "smooth", "running", "averaged", "average", "avg", "shadow", "polyak", "gs"}
G = "generator"
WEAK = "style.1.weight"  # a name that other networks may have too

Layout = Literal["record", "nvidia", "stylegan3", "rosinality", "basicsr"]
MARKS: dict[str, tuple[str, Layout]] = {  # the end of a weight's name -> the network that has it, and its layout
    "synthesis.b4.const": (G, "nvidia"),
    "synthesis.b4.conv1.weight": (G, "nvidia"),
    "input.input": (G, "rosinality"),
    "to_rgb1.conv.weight": (G, "rosinality"),
    WEAK: (G, "rosinality"),
    "constant_input.weight": (G, "basicsr"),
    "to_rgb1.modulated_conv.weight": (G, "basicsr"),
    "b4.fc.weight": ("discriminator", "nvidia"),
    "final_conv.0.weight": ("discriminator", "rosinality"),
    "final_linear.0.weight": ("discriminator", "rosinality"),
    "synthesis.input.freqs": (G, "stylegan3"),
    "synthesis.input.weight": (G, "stylegan3"),
}


@dataclass(frozen=True)
class Found:
    """A network: its place in the file (`""` for all of it), its weights by name or its record.

    `average` is a mean of w that stands beside it; `wrappers` the names that were left out of its weights' names.
    """

    kind: str  # generator, discriminator or other
    layout: Layout
    place: str
    weights: Record | dict[str, Tensor]
    average: Tensor | None = None
    wrappers: tuple[str, ...] = ()
    decoder: bool = False  # the generator of an encoder's file
    weak: bool = False

    @property
    def averaged(self) -> bool:
        """Whether its place is named like a running mean of weights: `g_ema`, `params_ema`, `generator_smooth`."""
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", self.place)
        return any(word.lower() in AVERAGED for word in words)


def networks_in(contents: object) -> list[Found]:
    """Every network in the file, in its order. Raises CheckpointError for contents nested without end."""
    flat: dict[str, Tensor | Record] = {}
    for place, value in _laid_flat(contents, "", 0, [MAX_ENTRIES]):
        flat.setdefault(place, value)
    found = [
        Found(nvidia.network_kind(value), "record", place, value, _average(flat, place))
        for place, value in flat.items()
        if isinstance(value, Record)
    ]
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    names, wrappers = _unwrapped(tensors)
    return _with_third_averaged(found) + list(_state_dicts(names, wrappers))


def _laid_flat(value: object, place: str, depth: int, budget: list[int]) -> Iterator[tuple[str, Tensor | Record]]:
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        return  # optimizers and settings nest, and memo references can nest without end: no network lies so deep
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Record):
        yield from _record(value, place, depth)
    elif isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(item, (Tensor, Record, Mapping, list, tuple)):
                yield from _laid_flat(item, f"{place}.{key}" if place else str(key), depth + 1, budget)


def _record(record: Record, place: str, depth: int) -> Iterator[tuple[str, Record]]:
    """A record, or what it wraps: one that is no network and has a single module."""
    modules = record.state.get("_modules")
    inner = list(modules.values()) if isinstance(modules, dict) else []
    wraps = nvidia.network_kind(record) == "other" and len(inner) == 1 and isinstance(inner[0], Record)
    if wraps and depth <= MAX_DEPTH and nvidia.network_kind(inner[0]) != "other":
        yield place, inner[0]
    else:
        yield place, record


def _with_third_averaged(found: list[Found]) -> list[Found]:
    """(G, D, Gs), as lists of StyleGAN's networks are ordered: the third is the mean of the first."""
    if [(x.place, x.kind) for x in found] != [("item 0", G), ("item 1", "discriminator"), ("item 2", G)]:
        return found
    return [*found[:2], replace(found[2], place="item 2 (Gs)")]


def _unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """The same without the names that wrappers add (`module.`), and which were left out of which; as they are where two
    names would be one.
    """
    names: dict[str, Tensor] = {}
    wrappers: dict[str, tuple[str, ...]] = {}
    for name, value in tensors.items():
        parts = name.split(".")
        kept = ".".join(part for part in parts if part not in WRAPPERS)
        if kept in names or not kept:
            return dict(tensors), {}
        names[kept] = value
        wrappers[kept] = tuple(part for part in parts if part in WRAPPERS)
    return names, wrappers


def _state_dicts(names: Mapping[str, Tensor], wrappers: Mapping[str, tuple[str, ...]]) -> Iterator[Found]:
    places: dict[tuple[str, str, Layout], list[str]] = {}
    for name in names:
        for mark, (kind, layout) in MARKS.items():
            if name == mark or name.endswith(f".{mark}"):
                places.setdefault((name[: -len(mark)].rstrip("."), kind, layout), []).append(mark)
    inner = {f"{place}." for place, _, _ in places if place}
    for (place, kind, layout), marks in places.items():
        before = f"{place}." if place else ""
        others = tuple(other for other in inner if other != before and other.startswith(before))
        weights = {
            name.removeprefix(before): value
            for name, value in names.items()
            if name.startswith(before) and not (others and name.startswith(others))
        }
        left_out = sorted({part for name in weights for part in wrappers.get(before + name, ())})
        average = _average(names, place)
        for name in AVERAGES:
            weights.pop(name, None)
        outer, _, last = place.rpartition(".")
        encoder = f"{outer}.encoder." if outer else "encoder."
        decoder = last == "decoder" and any(name.startswith(encoder) for name in names)
        yield Found(kind, layout, place, weights, average, tuple(left_out), decoder, marks == [WEAK])


def _average(names: Mapping[str, Any], place: str) -> Tensor | None:
    """A mean of w: in the place itself, or beside it, or further out."""
    parts = place.split(".") if place else []
    for depth in range(len(parts), -1, -1):
        for name in AVERAGES:
            if isinstance(value := names.get(".".join([*parts[:depth], name])), Tensor):
                return value
    return None


def choose(found: list[Found], kind: str) -> Found | None:
    """The network of a kind that is used: an EMA copy before others, the decoder of an encoder last.

    A damaged or foreign network in the place of the EMA copy is chosen too, to be refused by name.
    """
    standard = ("D", "d") if kind == "discriminator" else STANDARD
    candidates = [x for x in found if x.kind == kind or (x.place in standard and x.kind == "other")]

    def rank(x: Found) -> tuple[bool, ...]:
        return (x.weak, x.decoder, x.place not in standard[:2], not x.averaged and kind == "generator")

    return min(candidates, key=rank, default=None)


def notes_on(chosen: Found, found: list[Found]) -> tuple[str, ...]:
    """What was taken from the file, where it is not what files of its kind are read for."""
    others = [x.place for x in found if x.kind == chosen.kind and x is not chosen]
    notes = []
    if chosen.decoder:
        notes.append("the generator is the decoder of an encoder's checkpoint")
    elif chosen.place not in STANDARD and chosen.kind == "generator":
        about = ", its EMA copy" if chosen.averaged else ", which has no EMA copy"
        also = f" (also in it: {', '.join(map(repr, others))})" if others else ""
        notes.append(f"the generator is {chosen.place!r} of the file{about}{also}")
    if chosen.wrappers:
        left_out = ", ".join(f"'{name}.'" for name in chosen.wrappers)
        notes.append(f"{left_out} was left out of the names of its weights")
    return tuple(notes)


def require(found: list[Found], kind: str, where: str, described: str) -> Found:
    """The chosen network. Raises CheckpointError, with what the file holds, where there is none of that kind."""
    chosen = choose(found, kind)
    if chosen is None:
        held = ", ".join(repr(x.place or "the file") for x in found)
        raise CheckpointError(
            f"{where}: without a {kind} in it: {described}" + (f" (networks: {held})" if held else "")
        )
    return chosen
