"""Two drawings that are no portraits, for inversions outside the domain: a house in a landscape and a cat's face."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from latentopt.data.shapes import box, coverage, ellipse, lens, paint_, smooth_max
from latentopt.errors import UsageError

SUPERSAMPLE = 2


class _Sheet:
    """A picture [1,3,H,W] in [0,1] in progress; x to the right, y down, the shorter side spans [-1,1]."""

    def __init__(self, height: int, width: int) -> None:
        self.pixel = 2.0 / min(height, width)
        self.x = ((torch.arange(width) - 0.5 * (width - 1)) * self.pixel).view(1, 1, 1, -1)
        self.y = ((torch.arange(height) - 0.5 * (height - 1)) * self.pixel).view(1, 1, -1, 1)
        self.image = torch.zeros(1, 3, height, width)

    def paint(self, distance: Tensor, rgb: tuple[float, float, float], opacity: float = 1.0, soft: float = 0.0) -> None:
        mask = opacity * coverage(distance, self.pixel + soft)
        paint_(self.image, mask, torch.tensor(rgb).view(1, 3, 1, 1))


def _half_plane(x: Tensor, y: Tensor, slope: float) -> Tensor:
    """Signed distance to the line y = slope x, negative below it in the picture."""
    return (slope * x - y) / (1 + slope * slope) ** 0.5


def _triangle(x: Tensor, y: Tensor, half: float, height: float) -> Tensor:
    """Signed distance to an upright triangle with its tip at the origin (a lower bound outside the corners)."""
    return torch.maximum(_half_plane(x.abs(), y, height / half), y - height)


def _house(sheet: _Sheet) -> None:
    x, y = sheet.x, sheet.y
    sky = torch.tensor([0.45, 0.68, 0.94]).view(1, 3, 1, 1)
    sheet.image += sky + (y + 1) * torch.tensor([0.30, 0.18, 0.02]).view(1, 3, 1, 1)
    sheet.paint(torch.hypot(x - 0.62, y + 0.66) - 0.16, (1.0, 0.90, 0.45), soft=0.02)
    for left, top, size in ((-0.62, -0.66, 1.0), (0.12, -0.80, 0.7)):
        for shift, radius in ((-0.15, 0.08), (0.0, 0.12), (0.14, 0.09)):
            cloud = ellipse(x - left - size * shift, y - top, 1.2 * size * radius, size * radius)
            sheet.paint(cloud, (0.98, 0.98, 1.0), soft=0.02)
    for tip, half, height, rgb in (
        ((-0.75, -0.30), 0.62, 0.62, (0.46, 0.52, 0.66)),
        ((0.55, -0.22), 0.70, 0.55, (0.40, 0.47, 0.62)),
    ):
        sheet.paint(_triangle(x - tip[0], y - tip[1], half, height), rgb)
        sheet.paint(_triangle(x - tip[0], y - tip[1], 0.2 * half, 0.2 * height), (0.94, 0.95, 0.98))
    sheet.paint(0.22 + 0.05 * torch.sin(3.1 * x + 0.4) - y, (0.35, 0.62, 0.28))
    sheet.paint(0.52 - 0.06 * torch.sin(2.3 * x - 0.5) - y, (0.27, 0.52, 0.22), soft=0.02)
    path = torch.maximum((x + 0.08 + 0.3 * (y - 0.5).square()).abs() - 0.05 - 0.22 * (y - 0.5), 0.5 - y)
    sheet.paint(path, (0.80, 0.70, 0.52))
    sheet.paint(box(x + 0.36, y + 0.20, 0.06, 0.16), (0.52, 0.25, 0.20))
    sheet.paint(box(x + 0.10, y - 0.26, 0.42, 0.28), (0.93, 0.86, 0.70))
    sheet.paint(_triangle(x + 0.10, y + 0.40, 0.54, 0.40), (0.70, 0.22, 0.16))
    sheet.paint(box(x + 0.10, y - 0.37, 0.09, 0.17), (0.40, 0.24, 0.13))
    sheet.paint(torch.hypot(x + 0.05, y - 0.38) - 0.014, (0.95, 0.80, 0.30))
    for centre in (-0.36, 0.16):
        sheet.paint(box(x - centre, y - 0.22, 0.105, 0.105), (0.99, 0.98, 0.95))
        panes = torch.maximum(box(x - centre, y - 0.22, 0.085, 0.085), 0.010 - (x - centre).abs())
        sheet.paint(torch.maximum(panes, 0.010 - (y - 0.22).abs()), (0.35, 0.52, 0.68))
    sheet.paint(box(x - 0.70, y - 0.34, 0.045, 0.24), (0.42, 0.28, 0.16))
    for shift, top, radius in ((0.0, -0.10, 0.20), (-0.13, 0.06, 0.15), (0.13, 0.05, 0.16)):
        sheet.paint(torch.hypot(x - 0.70 - shift, y - top) - radius, (0.18, 0.44, 0.20), soft=0.02)


def _cat(sheet: _Sheet) -> None:
    x, y, side = sheet.x, sheet.y, sheet.x.abs()
    fur, dark, pale, pink = (0.92, 0.60, 0.28), (0.66, 0.36, 0.14), (0.99, 0.93, 0.84), (0.93, 0.58, 0.58)
    sheet.image += torch.tensor([0.36, 0.56, 0.58]).view(1, 3, 1, 1) * (1 - 0.15 * (x * x + y * y))
    sheet.paint(ellipse(x, y - 1.15, 0.62, 0.60), dark)
    # The ears lean outwards: turned by 0.35 radians about their tips.
    across = 0.94 * (side - 0.56) + 0.34 * (y + 0.82)
    along = 0.94 * (y + 0.82) - 0.34 * (side - 0.56)
    sheet.paint(smooth_max(_triangle(across, along, 0.30, 0.62), 0.04 - along, 0.04), fur)
    sheet.paint(_triangle(across, along - 0.16, 0.17, 0.40), pink, soft=0.03)
    sheet.paint(ellipse(x, y - 0.06, 0.72, 0.60), fur)
    stripes = torch.minimum(side - 0.028, (side - 0.17 + 0.2 * (y + 0.4)).abs() - 0.024)
    sheet.paint(torch.maximum(stripes, box(x, y + 0.41, 0.3, 0.10)), dark, soft=0.02)
    for height in (0.06, 0.20):
        stripe = lens(side - 0.62, y - height + 0.1 * (side - 0.62), 0.12, 0.03)
        sheet.paint(stripe, dark, soft=0.02)
    sheet.paint(ellipse(side - 0.14, y - 0.34, 0.21, 0.18), pale, soft=0.04)
    sheet.paint(ellipse(x, y - 0.53, 0.13, 0.09), pale, soft=0.03)
    slanted = y + 0.06 + 0.25 * (side - 0.31)
    eye = lens(side - 0.31, slanted, 0.19, 0.14)
    sheet.paint(eye - 0.025, (0.16, 0.10, 0.07))
    sheet.paint(eye, (0.62, 0.80, 0.25))
    sheet.paint(torch.maximum(eye, ellipse(side - 0.31, slanted, 0.05, 0.13)), (0.04, 0.04, 0.04))
    sheet.paint(torch.hypot(x.sign() * (side - 0.31) + 0.04, y + 0.12) - 0.028, (1.0, 1.0, 1.0))
    sheet.paint(smooth_max(_half_plane(side, 0.27 - y, 0.9), 0.17 - y, 0.02), pink)
    mouth = torch.maximum((torch.hypot(side - 0.10, y - 0.33) - 0.10).abs() - 0.011, 0.34 - y)
    mouth = torch.minimum(mouth, box(x, y - 0.30, 0.011, 0.04))
    sheet.paint(mouth, (0.25, 0.14, 0.10))
    for start, slope in ((0.30, -0.16), (0.35, 0.02), (0.40, 0.20)):
        whisker = (y - start - slope * (side - 0.2)).abs() - 0.006
        sheet.paint(torch.maximum(whisker, (side - 0.56).abs() - 0.34), (1.0, 0.99, 0.96), opacity=0.9)


DRAWINGS = (_house, _cat)


@torch.no_grad()
def drawings(n: int, resolution: int | tuple[int, int]) -> Tensor:
    """The first n drawings: a house in a landscape, then a cat's face.

    Args:
        n: 0 to 2.
        resolution: side of a square picture, or (height, width).

    Returns:
        [n,3,H,W] float32 in [-1,1].

    Raises:
        UsageError: n or the resolution is out of range.
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if not 0 <= n <= len(DRAWINGS):
        raise UsageError(f"there are {len(DRAWINGS)} drawings, {n} were asked for")
    if min(height, width) < 1:
        raise UsageError(f"resolution {height}x{width} must be at least 1")
    images = torch.empty(n, 3, height, width)
    for image, draw in zip(images, DRAWINGS, strict=False):
        sheet = _Sheet(height * SUPERSAMPLE, width * SUPERSAMPLE)
        draw(sheet)
        image.copy_(avg_pool2d(sheet.image.clamp_(0, 1), SUPERSAMPLE)[0].mul_(2).sub_(1))
    return images
