"""Pictures of what a refiner did: the flow over the picture (Figure 7 of WarpRes), and the residual's strength."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.refiners.warping import resized_flow

SPACING = 16  # arrows over the longer side
LEAST_MOVE = 0.004  # of the side: shorter arrows are left out
FAINT = 0.5


def arrows(image: Tensor, flow: Tensor) -> Tensor:
    """Images [B,3,H,W] in [-1,1], faint, with an arrow from where things were to where they are: [B,3,H,W].

    Small pictures are enlarged, so that arrows can be seen. The colour goes by the arrow's direction.
    """
    factor = max(1, 256 // max(image.shape[2:]))
    size = (image.shape[2] * factor, image.shape[3] * factor)
    large = interpolate(image[:, :3].clamp(-1, 1), size=size, mode="nearest")
    shown = (1 - FAINT) + FAINT * large.expand(-1, 3, -1, -1).clone()
    flow = resized_flow(flow, size)
    step = max(size) // SPACING
    for b in range(len(shown)):
        for y in range(step // 2, size[0], step):
            for x in range(step // 2, size[1], step):
                dx, dy = flow[b, :, y, x].tolist()
                if math.hypot(dx, dy) >= LEAST_MOVE * max(size):
                    _line(shown[b], (x + dx, y + dy), (x, y))
    return shown


def _line(image: Tensor, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow in place."""
    (x0, y0), (x1, y1) = start, end
    angle = math.atan2(y1 - y0, x1 - x0)
    colour = image.new_tensor([math.cos(angle - shift) for shift in (0.0, 2.094, 4.189)]) * 0.9
    steps = max(2, int(2 * math.hypot(x1 - x0, y1 - y0)))
    for i in range(steps + 1):
        t = i / steps
        _dot(image, x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, 0, colour)
    _dot(image, x1, y1, 1, colour)


def _dot(image: Tensor, x: float, y: float, radius: int, colour: Tensor) -> None:
    height, width = image.shape[1:]
    column, row = round(x), round(y)
    if 0 <= column < width and 0 <= row < height:
        rows = slice(max(0, row - radius), row + radius + 1)
        image[:, rows, max(0, column - radius) : column + radius + 1] = colour.view(3, 1, 1)


def strength(residual: Tensor, peak: Tensor, image: Tensor) -> Tensor:
    """Length of the residual [B,c,h,w] at each place, grey, in the size of `image`; white is `peak` [B,1,1]."""
    share = residual.norm(dim=1) / peak.clamp_min(1e-12)  # [B,h,w]
    grey = interpolate(share[:, None], size=image.shape[2:], mode="nearest").clamp(0, 1)
    return (2 * grey - 1).expand(-1, 3, -1, -1)
