"""The style of a layer: what its affine makes of w, what stands in place of that, what is added to it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from latentopt.generators.layers import FullyConnected
from latentopt.types import ADDS, LayerTensors


class Styled(Protocol):
    """A layer that a style modulates; its affine makes that of w."""

    affine: FullyConnected


def styled(given: LayerTensors | None, name: str, layer: Styled, w: Tensor, deltas: LayerTensors | None) -> Tensor:
    """The style of a layer, [B,I] or [B,O,I]: what is `given`, else what w [B,C] makes, with what is to be added."""
    given = given or {}
    style = given[name] if name in given else layer.affine(w, deltas, f"synthesis.{name}.affine")
    added = given.get(ADDS + name)
    return style if added is None else sum_of(style, added)


def own_style(given: LayerTensors, name: str, layer: Styled, w: Tensor, deltas: LayerTensors | None) -> Tensor | None:
    """The same, and None where nothing is given and the layer makes it itself, of w."""
    if name not in given and ADDS + name not in given:
        return None
    return styled(given, name, layer, w, deltas)


def sum_of(style: Tensor, added: Tensor) -> Tensor:
    """Of styles [B,I] or one a filter [B,O,I], whichever each is."""
    if style.ndim < added.ndim:
        style = style[:, None]
    elif added.ndim < style.ndim:
        added = added[:, None]
    return style + added
