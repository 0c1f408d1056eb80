"""The moves of a picture that are tried to see whether it is misaligned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Move:
    """A picture shifted (fractions of its width and height, right and down), enlarged, turned (degrees, clockwise)."""

    words: str
    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0
    turn: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """image [B,3,H,W]; what comes in from outside repeats the border."""
        height, width = image.shape[2:]
        c, s = math.cos(math.radians(self.turn)) / self.zoom, math.sin(math.radians(self.turn)) / self.zoom
        # from where in the picture, in [-1,1] on both axes, each pixel of the moved one comes
        theta = image.new_tensor([[c, s * height / width, 0.0], [-s * width / height, c, 0.0]])
        theta[:, 2] = -theta[:, :2] @ image.new_tensor([2 * self.right, 2 * self.down])
        grid = F.affine_grid(theta.expand(len(image), 2, 3), list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


MOVES = (
    Move("moved to the left by an eighth of its width", right=-0.125),
    Move("moved to the right by an eighth of its width", right=0.125),
    Move("moved up by an eighth of its height", down=-0.125),
    Move("moved down by an eighth of its height", down=0.125),
    Move("shown smaller, at 80 %, with more around it", zoom=0.8),
    Move("cropped closer, at 125 %", zoom=1.25),
    Move("turned clockwise by 15 degrees", turn=15),
    Move("turned anticlockwise by 15 degrees", turn=-15),
    Move("turned clockwise by 90 degrees", turn=90),
    Move("turned anticlockwise by 90 degrees", turn=-90),
    Move("turned upside down", turn=180),
)
