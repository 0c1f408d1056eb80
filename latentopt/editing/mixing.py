"""Style mixing, and interpolation in any space of latents. B images, L = num_ws, C = w_dim."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.geometry.moves import between_moves, is_move
from latentopt.protocols import Generator, Parameterization
from latentopt.results.redrawing import Redraw
from latentopt.types import ADDS, GROUPS, REPLACES, GeneratorInputs, LayerTensors, place_of

PAPER_SPLIT = 7 / 18  # Zhu et al. 2020, section 4.4.5: 7 layers of the one image, 11 of the other


def split_row(num_ws: int, split: float | None = None) -> int:
    """The first row of ws that comes from the second image.

    split: a row (1 or more), a share of the rows (below 1), or None for the paper's 7 of 18. Raises UsageError where
    one of the images would get no row.
    """
    split = PAPER_SPLIT if split is None else split
    if not math.isfinite(split):
        raise UsageError(f"a split is a row, or a share of the rows below 1, not {split}")
    if split >= 1 and split != int(split):
        raise UsageError(f"a split is a row, or a share of the rows below 1, not {split}")
    row = round(split * num_ws) if 0 < split < 1 else int(split)
    if split <= 0 or row >= num_ws:
        raise UsageError(f"a split of {split:g}: latents of {num_ws} rows are split at row 1 to {num_ws - 1}")
    return max(row, 1)


def mix(
    coarse: GeneratorInputs, fine: GeneratorInputs, split: float | None = None, generator: Generator | None = None
) -> GeneratorInputs:
    """The rows of ws below the split from `coarse`, the others from `fine`; see `split_row`.

    Noise maps, weight deltas, styles and residuals go with the row that drives their layer, which `generator` tells: it
    is needed for inputs that have any. The transform is that of `coarse`. Raises UsageError.
    """
    row = split_row(coarse.ws.shape[1], split)
    check_shapes(coarse, fine)
    groups: dict[str, dict[str, Tensor] | None] = {}
    for name in GROUPS:
        first, second = (getattr(inputs, name) or {} for inputs in (coarse, fine))
        chosen: dict[str, Tensor] = {}
        if first or second:
            if generator is None:
                raise UsageError(f"mixing inputs with {name} needs the generator, which knows the rows of its layers")
            chosen = {key: x for key, x in first.items() if _row(generator, key) < row}
            chosen |= {key: x for key, x in second.items() if _row(generator, key) >= row}
        groups[name] = chosen or None
    ws = torch.cat([coarse.ws[:, :row], fine.ws[:, row:].to(coarse.ws)], dim=1)
    return GeneratorInputs(ws, **groups, transform=coarse.transform)


def _row(generator: Generator, name: str) -> int:
    return generator.row_of(place_of(name)) or 0


class Way:
    """From `first` (t = 0) to `second` (t = 1), straight in the variables of `lens`, any space of latents; None is W+.

    Fields that the lens does not write change linearly: weight deltas, residuals and styles that are added (where only
    one image has one, from or to nothing), noise maps and whole styles that both have too; maps that one alone has
    stay. What `lens` cannot hold of an image (rows of ws in W, a w that the mapping network does not make in Z+) fades
    linearly too, so that the ends are the images themselves. Raises UsageError for latents of other shapes, and for
    whole styles, whole outputs or a transform that only one of the images has.
    """

    def __init__(self, first: GeneratorInputs, second: GeneratorInputs, lens: Parameterization | None = None) -> None:
        check_shapes(first, second)
        self.first, self.second, self.lens = first, second.replace(ws=second.ws.to(first.ws)), lens
        for name, one, other in zip(
            ("styles", "layer outputs", "a transform"), _bound(first), _bound(second), strict=True
        ):
            if one != other:
                raise UsageError(f"{name} cannot be interpolated to an image that has none")
        if lens is not None:
            self.ends = [lens.encode(inputs) for inputs in (self.first, self.second)]
            self.lost = [
                _lost(inputs, lens.decode(v, inputs)) for inputs, v in zip(self.images, self.ends, strict=True)
            ]

    @property
    def images(self) -> tuple[GeneratorInputs, GeneratorInputs]:
        return self.first, self.second

    def __call__(self, t: float) -> GeneratorInputs:
        between = self._straight(t)
        if self.lens is None:
            return between
        first, second = self.ends
        found = self.lens.decode({name: torch.lerp(v, second[name], t) for name, v in first.items()}, between)
        lost, more = self.lost
        return found.replace(
            ws=found.ws + torch.lerp(lost.ws, more.ws, t),
            styles=_sum(found.styles, _between(lost.styles, more.styles, t, fill=True)),
            residuals=_sum(found.residuals, _between(lost.residuals, more.residuals, t, fill=True)),
        )

    def _straight(self, t: float) -> GeneratorInputs:
        first, second = self.images
        return GeneratorInputs(
            torch.lerp(first.ws, second.ws, t),
            noise=_between(first.noise, second.noise, t, fill=False),
            deltas=_between(first.deltas, second.deltas, t, fill=True),
            styles=_between(first.styles, second.styles, t, fill=True),
            residuals=_between(first.residuals, second.residuals, t, fill=True),
            transform=_between_transforms(first.transform, second.transform, t),
        )


def interpolate(
    first: GeneratorInputs, second: GeneratorInputs, t: float, lens: Parameterization | None = None
) -> GeneratorInputs:
    """The latents at the share t of the `Way` from `first` to `second`. Raises UsageError."""
    return Way(first, second, lens)(t)


def _lost(inputs: GeneratorInputs, held: GeneratorInputs) -> GeneratorInputs:
    """What a space did not hold of `inputs`."""
    return GeneratorInputs(
        inputs.ws - held.ws,
        styles=_sum(inputs.styles, _negative(held.styles)),
        residuals=_sum(inputs.residuals, _negative(held.residuals)),
    )


def _negative(tensors: LayerTensors | None) -> dict[str, Tensor]:
    return {key: -x for key, x in (tensors or {}).items()}


def _sum(first: LayerTensors | None, second: LayerTensors | None) -> dict[str, Tensor] | None:
    """Entry by entry; one that only one of them has counts as it is."""
    one, other = dict(first or {}), dict(second or {})
    for key in one.keys() & other.keys():
        a, b = torch.broadcast_tensors(*_alike(one[key], other[key].to(one[key])))
        one[key] = a + b
    return other | one or None


class DrawnWay:
    """What is drawn on the way between two results: what either's refiner makes of the latents there, one fading into
    the other.
    """

    def __init__(self, first: Redraw, second: Redraw, lens: Parameterization | None = None) -> None:
        self.first, self.second, self.way = first, second, Way(first.base, second.base, lens)

    def __call__(self, t: float) -> GeneratorInputs:
        between = self.way(t)
        if self.first.refiner is None and self.second.refiner is None:
            return between
        drawn = self.first(between).residuals, self.second(between).residuals
        return between.replace(residuals=_between(*drawn, t, fill=True))


def mix_drawn(coarse: Redraw, fine: Redraw, split: float | None, generator: Generator) -> GeneratorInputs:
    """What is drawn for two results mixed: through the refiner of the one that gives the layer that it refines."""
    row = split_row(coarse.base.ws.shape[1], split)
    mixed = mix(coarse.base, fine.base, row, generator)
    for redraw, is_coarse in ((coarse, True), (fine, False)):
        if redraw.refiner is not None and (_row(generator, redraw.refiner.layer) < row) == is_coarse:
            mixed = redraw(mixed)
    return mixed


def _between_transforms(first: Tensor | None, second: Tensor | None, t: float) -> Tensor | None:
    if first is None or second is None:
        return None
    one, other = torch.broadcast_tensors(first, second.to(first))
    between = between_moves(one, other, t)
    if not is_move(between):
        raise UsageError("between a picture and its mirror image lie pictures that are flattened to nothing")
    return between


def _bound(inputs: GeneratorInputs) -> tuple[set[str], set[str], bool]:
    """What has no zero to be interpolated from: styles, whole outputs (see GeneratorInputs), a transform."""
    outputs = {name for name in inputs.residuals or () if name.startswith(REPLACES)}
    styles = {name for name in inputs.styles or () if not name.startswith(ADDS)}
    return styles, outputs, inputs.transform is not None


def _between(first: LayerTensors | None, second: LayerTensors | None, t: float, fill: bool) -> dict[str, Tensor] | None:
    """Entries that both have, interpolated; those of one, interpolated with 0 (`fill`) or as they are."""
    one, other = dict(first or {}), dict(second or {})
    found = {}
    for key in one | other:
        if key in one and key in other:
            a, b = torch.broadcast_tensors(*_alike(one[key], other[key].to(one[key])))
            found[key] = torch.lerp(a, b, t)
        else:
            share = (1 - t if key in one else t) if fill else 1
            found[key] = (one | other)[key] * share
    return found or None


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Styles of which only one has an entry for each filter, [B,I] and [B,O,I], so that they go together."""
    if a.ndim == b.ndim:
        return a, b
    return (a[:, None], b) if a.ndim < b.ndim else (a, b[:, None])


def check_shapes(first: GeneratorInputs, second: GeneratorInputs) -> None:
    if first.ws.shape != second.ws.shape:
        shapes = f"{list(first.ws.shape)} and {list(second.ws.shape)}"
        raise UsageError(f"latents {shapes} do not belong together; take images of one generator")
