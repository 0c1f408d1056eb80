"""Points of a picture shown: where each is, where it goes, and what may move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.pictures.channels import on_white
from latentopt.pictures.images import from_uint8, to_pil

SIDE = 256  # pixels; smaller pictures are enlarged by a whole factor
HANDLE, GOAL, LINE = (230, 40, 40), (40, 90, 230), (255, 255, 255)
DIMMED = 0.45  # how much darker what stays is shown


def marked(picture: Tensor, points: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """A picture [C,H,W] in [-1,1], enlarged, with points [n,2] in red, targets [n,2] in blue, lines between: [3,h,w].

    mask [H,W]: what does not move (0) is darker.
    """
    factor = max(1, SIDE // max(picture.shape[-2:]))
    image = on_white(picture.clamp(-1, 1))
    if mask is not None:
        image = (image + 1) * (1 - DIMMED * (1 - mask.to(image))) - 1
    large = interpolate(image[None], scale_factor=factor, mode="nearest")[0]
    canvas = to_pil(large).convert("RGB")
    draw = ImageDraw.Draw(canvas)
    radius = max(3, max(canvas.size) // 80)
    for start, end in zip(_centres(points, factor), _centres(targets, factor), strict=True):
        draw.line([start, end], fill=LINE, width=max(1, radius // 2))
        for (x, y), colour in ((end, GOAL), (start, HANDLE)):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour, outline=LINE)
    return from_uint8(np.asarray(canvas))


def _centres(points: Tensor, factor: int) -> Sequence[tuple[float, float]]:
    """Where the middles of pixels lie in an enlarged picture."""
    x_y = (points.double() + 0.5) * factor - 0.5
    return [(float(x), float(y)) for x, y in torch.unbind(x_y)]
