"""Pictures of what a refiner did: the flow over the picture (Figure 7 of WarpRes), and the residual's strength."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.pictures.channels import in_colour
from latentopt.pictures.images import from_uint8, to_pil
from latentopt.refiners.warping import resized_flow

SIDE = 256  # pixels: smaller pictures are enlarged, so that arrows can be seen
SPACING = 16  # arrows over the longer side
LEAST_MOVE = 0.004  # of the side: shorter arrows are left out
FAINT = 0.5


def arrows(image: Tensor, flow: Tensor) -> Tensor:
    """Images [B,C,H,W] in [-1,1], faint, with an arrow from where things were to where they are: [B,3,h,w].

    The colour goes by the arrow's direction.
    """
    factor = max(1, SIDE // max(image.shape[2:]))
    size = (image.shape[2] * factor, image.shape[3] * factor)
    large = interpolate(in_colour(image.float()).clamp(-1, 1), size=size, mode="nearest")
    faint = (1 - FAINT) + FAINT * large.cpu()
    vectors = resized_flow(flow.float(), size).cpu()
    step = max(size) // SPACING
    drawn = []
    for one, vector in zip(faint, vectors, strict=True):
        picture = to_pil(one)
        canvas = ImageDraw.Draw(picture)
        for y in range(step // 2, size[0], step):
            for x in range(step // 2, size[1], step):
                dx, dy = vector[:, y, x].tolist()
                if math.hypot(dx, dy) >= LEAST_MOVE * max(size):
                    hue = math.atan2(-dy, -dx) / (2 * math.pi) % 1
                    colour = tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 1, 0.8))
                    canvas.line([(x + dx, y + dy), (x, y)], fill=colour)
                    canvas.ellipse([x - 1, y - 1, x + 1, y + 1], fill=colour)
        drawn.append(from_uint8(np.asarray(picture)))
    return torch.stack(drawn).to(image.device)


def strength(residual: Tensor, peak: Tensor, image: Tensor) -> Tensor:
    """Length of the residual [B,c,h,w] at each place, grey, in the size of `image`; white is `peak` [B,1,1]."""
    share = residual.norm(dim=1) / peak.clamp_min(1e-12)  # [B,h,w]
    grey = interpolate(share[:, None], size=image.shape[2:], mode="nearest").clamp(0, 1)
    return (2 * grey - 1).expand(-1, 3, -1, -1)
