"""The style of a layer: what its affine makes of w, what stands in place of that, what is added to it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from latentopt.types import ADDS, LayerTensors


def styled(given: LayerTensors | None, layer: str, affine: Callable[[], Tensor]) -> Tensor:
    """The style of a layer, [B,I] or [B,O,I]: what is `given`, else what `affine` makes, with what is to be added."""
    given = given or {}
    style = given[layer] if layer in given else affine()
    added = given.get(ADDS + layer)
    return style if added is None else sum_of(style, added)


def sum_of(style: Tensor, added: Tensor) -> Tensor:
    """Of styles [B,I] or one a filter [B,O,I], whichever each is."""
    if style.ndim < added.ndim:
        style = style[:, None]
    elif added.ndim < style.ndim:
        added = added[:, None]
    return style + added
