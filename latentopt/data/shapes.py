"""Shapes as signed distances on tensors (negative inside), and the anti-aliased coverage made from them."""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(distance: Tensor, width: Tensor | float) -> Tensor:
    """Part of a pixel that a shape covers, in [0,1]: a linear edge of the given width centred on the outline."""
    return (0.5 - distance / width).clamp_(0, 1)


def paint_(image: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """Draw `colour` [B,3,1|h,1|w] over `image` [B,3,h,w] in place, with opacity `mask` [B,1,h,w] in [0,1]."""
    return image.lerp_(colour, mask)


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Signed distance to an ellipse at the origin, to first order (exact on the outline's value and slope)."""
    u, v = x / radius_x, y / radius_y
    length = torch.hypot(u, v)
    slope = torch.hypot(u / radius_x, v / radius_y)
    return (length - 1) * length / slope.clamp_min_(1e-4)


def box(x: Tensor, y: Tensor, half_x: Tensor | float, half_y: Tensor | float) -> Tensor:
    """Signed distance to an axis-aligned box at the origin (exact on the sides, a lower bound at the corners)."""
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def lens(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float) -> Tensor:
    """Signed distance, to first order, to the almond between the parabolas y = +-half_height (1 - (x/half_width)^2)."""
    u = x / half_width
    slope = 2 * half_height / half_width * u
    return (y.abs() - half_height * (1 - u * u)) / torch.sqrt(1 + slope * slope)


def smooth_max(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """Maximum of two distances with the edge rounded over `radius`: the intersection of two shapes."""
    gap = (radius - (a - b).abs()).clamp_min_(0)
    return torch.maximum(a, b) + gap * gap / (4 * radius)


def smoothstep(x: Tensor, start: float, end: float) -> Tensor:
    """Cubic step from 0 at `start` to 1 at `end`."""
    t = ((x - start) / (end - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)
