"""Style mixing, and interpolation in W+ and P-norm+. B images, L = num_ws, C = w_dim."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.editing.layers import row_of
from latentopt.errors import UsageError
from latentopt.pnorm import PNorm
from latentopt.types import GROUPS, GeneratorInputs

PAPER_SPLIT = 7 / 18  # Zhu et al. 2020, section 4.4.5: 7 layers of the one image, 11 of the other
SPACES = ("w+", "p-norm+")


def split_row(num_ws: int, split: float | None = None) -> int:
    """The first row of ws that comes from the second image.

    split: a row (1 or more), a share of the rows (below 1), or None for the paper's 7 of 18. Raises UsageError where one of
    the images would get no row.
    """
    split = PAPER_SPLIT if split is None else split
    if split >= 1 and split != int(split):
        raise UsageError(f"a split is a row, or a share of the rows below 1, not {split}")
    row = round(split * num_ws) if 0 < split < 1 else int(split)
    if split <= 0 or row >= num_ws:
        raise UsageError(f"a split of {split:g}: latents of {num_ws} rows are split at row 1 to {num_ws - 1}")
    return max(row, 1)


def mix(coarse: GeneratorInputs, fine: GeneratorInputs, split: float | None = None) -> GeneratorInputs:
    """The rows of ws below the split from `coarse`, the others from `fine`; see `split_row`.

    Noise maps, weight deltas and features go with the row that drives their layer.
    """
    row = split_row(coarse.ws.shape[1], split)
    check_shapes(coarse, fine)
    groups: dict[str, dict[str, Tensor] | None] = {}
    for name in GROUPS:
        first, second = (getattr(inputs, name) or {} for inputs in (coarse, fine))
        chosen = {key: x for key, x in first.items() if (row_of(key) or 0) < row}
        chosen |= {key: x for key, x in second.items() if (row_of(key) or 0) >= row}
        groups[name] = chosen or None
    return GeneratorInputs(torch.cat([coarse.ws[:, :row], fine.ws[:, row:].to(coarse.ws)], dim=1), **groups)


def interpolate(
    first: GeneratorInputs, second: GeneratorInputs, t: float, space: str = "w+", pnorm: PNorm | None = None
) -> GeneratorInputs:
    """From `first` (t = 0) to `second` (t = 1), straight in W+ or in P-norm+.

    Weight deltas change linearly (where only one image has one, from or to nothing), noise maps that both have too; maps
    that one alone has stay. Raises UsageError for another space, P-norm+ without statistics, and features that only one of
    the images has.
    """
    check_shapes(first, second)
    if space not in SPACES:
        raise UsageError(f"interpolation in {space!r}: choose {' or '.join(SPACES)}")
    a, b = first.ws, second.ws.to(first.ws)
    if space == "w+":
        ws = torch.lerp(a, b, t)
    elif pnorm is None:
        raise UsageError("interpolation in p-norm+ needs the generator's P-norm statistics: latentopt fit-pnorm")
    else:
        basis = pnorm.basis(dtype=torch.float64)
        v = torch.lerp(*(basis.whiten(x.double().cpu()) for x in (a, b)), t)
        ws = basis.unwhiten(v).to(a)
    if (first.features or {}).keys() != (second.features or {}).keys():
        raise UsageError("features (of the F space) cannot be interpolated to an image that has none")
    return GeneratorInputs(
        ws,
        noise=_between(first.noise, second.noise, t, fill=False),
        deltas=_between(first.deltas, second.deltas, t, fill=True),
        features=_between(first.features, second.features, t, fill=False),
    )


def _between(first: object, second: object, t: float, fill: bool) -> dict[str, Tensor] | None:
    """Entries that both have, interpolated; those of one, interpolated with 0 (`fill`) or as they are."""
    first, second = dict(first or {}), dict(second or {})
    found = {}
    for key in first | second:
        if key in first and key in second:
            found[key] = torch.lerp(first[key], second[key].to(first[key]), t)
        else:
            share = (1 - t if key in first else t) if fill else 1
            found[key] = (first | second)[key] * share
    return found or None


def check_shapes(first: GeneratorInputs, second: GeneratorInputs) -> None:
    if first.ws.shape != second.ws.shape:
        shapes = f"{list(first.ws.shape)} and {list(second.ws.shape)}"
        raise UsageError(f"latents {shapes} do not belong together; take images of one generator")
