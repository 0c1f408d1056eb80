"""Where the eyes and the corners of the mouth of a portrait are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.data.portrait_head import MAX_YAW, Head
from latentopt.data.portraits import NAMES


def portrait_points(attributes: Tensor, size: tuple[int, int]) -> Tensor:
    """The middles of the left and the right eye and the corners of the mouth, [B,4,2], x and y in pixels from the outer
    corner of the first; left and right are the picture's. Of portraits with these attributes [B,A], drawn at `size`
    (H,W).

    A point of the face at (u, y) from the front lies on the head's circle at that height, turned by the yaw.
    """
    a = dict(zip(NAMES, attributes.double().unbind(1), strict=True))
    head = Head(a)
    smile = head.a["smile"]
    mouth_x, mouth_y = (0.125 + 0.035 * smile) * head.wide, (0.285 - 0.0325 * smile) * head.tall
    u = torch.cat([-head.eye_x, head.eye_x, -mouth_x, mouth_x], dim=1)  # [B,4,1,1]
    y = torch.cat([head.eye_y, head.eye_y, mouth_y, mouth_y], dim=1)
    level = y / head.half_height
    taper = 1.0 - 0.12 * level - 0.03 * level * level
    radius = head.half_width * taper * (1 - level * level).sqrt()
    angle = (u / radius).clamp(-1, 1).asin() + MAX_YAW * head.a["yaw"]
    shown = torch.cat(head.shown_at(radius * angle.sin() + 0.035 * head.sin, y), dim=3)[:, :, 0]  # [B,4,2]
    height, width = size
    return shown * min(size) / 2 + shown.new_tensor([width / 2, height / 2])
