"""The head of a portrait: its sizes and colours, its surface turned back to the front, and the canvas it is drawn on.

The head is a solid of revolution about the vertical axis. Every pixel inside its outline is a point of that
surface, and turning this point back by the yaw gives its place (u, y) on the frontal face.

Coordinates: x to the right, y down, the shorter side of the picture spans [-1,1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from latentopt.data.shapes import coverage, ellipse, paint_

MAX_YAW = 0.62  # radians at yaw 1: the far eye is still in view, as a regressor needs


def mix(stops: tuple[tuple[float, float, float], ...], t: Tensor) -> Tensor:
    """Quadratic curve through colour space: t [B,1,1,1] in [0,1] -> [B,3,1,1]; the first and last stop are met."""
    first, middle, last = (torch.tensor(s, dtype=t.dtype, device=t.device).view(1, 3, 1, 1) for s in stops)
    return (1 - t) ** 2 * first + 2 * t * (1 - t) * middle + t * t * last


@dataclass
class Canvas:
    """A picture in progress, or a rectangle of it: views into one image, with the portrait coordinates."""

    image: Tensor  # [B,3,h,w] in [0,1]
    x: Tensor  # [B,1,1,w]
    y: Tensor  # [B,1,h,1]
    pixel: Tensor  # [B,1,1,1] side of one pixel in portrait units

    def paint(
        self, distance: Tensor, colour: Tensor, opacity: Tensor | float = 1.0, width: Tensor | float | None = None
    ) -> None:
        mask = coverage(distance, self.pixel if width is None else width)
        paint_(self.image, mask * opacity, colour)

    def crop(self, left: float, right: float, top: float, bottom: float) -> Canvas:
        """The smallest rectangle that holds the given one for every portrait of the batch, as views."""
        columns = ((self.x >= left) & (self.x <= right)).any(0).flatten()  # [w]
        rows = ((self.y >= top) & (self.y <= bottom)).any(0).flatten()  # [h]
        inside = torch.cat([columns, rows]).cpu()  # once: a GPU is waited for
        c, r = (_extent(part) for part in inside.split([len(columns), len(rows)]))
        return Canvas(self.image[:, :, r, c], self.x[..., c], self.y[..., r, :], self.pixel)


def _extent(inside: Tensor) -> slice:
    """From the first place that is inside [n] to the last."""
    places = inside.nonzero()
    return slice(int(places.min()), int(places.max()) + 1) if len(places) else slice(0, 0)


class Head:
    """Sizes and colours [B,1,1,1] or [B,3,1,1] that follow from the attributes of a batch."""

    def __init__(self, attributes: dict[str, Tensor]) -> None:
        self.a = a = {name: value.view(-1, 1, 1, 1) for name, value in attributes.items()}
        self.scale = 1.22 * (1 + 0.08 * a["scale"])
        angle = a["yaw"] * MAX_YAW
        self.sin, self.cos = angle.sin(), angle.cos()
        self.half_width = 0.335 + 0.10 * a["face_width"]
        self.half_height = 0.45 + 0.12 * a["face_height"]
        self.wide, self.tall = self.half_width / 0.385, self.half_height / 0.51
        self.skin = mix(((1.0, 0.87, 0.77), (0.86, 0.60, 0.42), (0.36, 0.22, 0.15)), a["skin_tone"])
        brown = mix(((0.09, 0.07, 0.07), (0.45, 0.26, 0.12), (0.96, 0.83, 0.50)), a["hair_tone"])
        red = mix(((0.30, 0.03, 0.03), (0.70, 0.16, 0.04), (0.98, 0.50, 0.20)), a["hair_tone"])
        self.hair = torch.lerp(brown, red, 0.85 * a["hair_red"])
        self.iris = mix(((0.20, 0.11, 0.05), (0.25, 0.45, 0.15), (0.30, 0.60, 0.90)), a["iris_tone"])
        self.eye_x, self.eye_y = 0.172 * self.wide, -0.05 * self.tall

    def canvas(self, image: Tensor, x: Tensor, y: Tensor, pixel: float) -> Canvas:
        """A picture [B,3,h,w] whose columns lie at x [w] and rows at y [h], with the portrait's own coordinates."""
        own_x = (x.view(1, 1, 1, -1) - 0.08 * self.a["position_x"]) / self.scale
        own_y = (y.view(1, 1, -1, 1) + 0.15 - 0.06 * self.a["position_y"]) / self.scale
        return Canvas(image, own_x, own_y, pixel / self.scale)

    def shown_at(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where the picture shows a place of the portrait's own coordinates."""
        return x * self.scale + 0.08 * self.a["position_x"], y * self.scale - 0.15 + 0.06 * self.a["position_y"]

    def colour(self, name: str) -> Tensor:
        return torch.cat([self.a[f"{name}_{channel}"] for channel in ("red", "green", "blue")], 1)

    def turn_back(self, x: Tensor, radius: Tensor, lift: float = 0.0) -> tuple[Tensor, Tensor]:
        """Frontal place u and depth z of the pixel at x on a level of the head with this radius, `lift` above it."""
        depth = (radius * radius - x * x).clamp_min_(0).sqrt_() + lift
        return x * self.cos - depth * self.sin, x * self.sin + depth * self.cos

    def shade(self, x: Tensor, y: Tensor) -> Tensor:
        """Brightness of a round surface lit from light_direction and above."""
        side = (x / 0.45).clamp(-1, 1) * self.a["light_direction"]
        return (0.95 + 0.30 * side - 0.10 * y - 0.12 * (x / 0.45).square()).clamp_(0.45, 1.25)


class Surface:
    """The face on a canvas: its outline, and the frontal coordinates of each pixel."""

    def __init__(self, head: Head, canvas: Canvas) -> None:
        self.y = canvas.y / head.tall
        self.x = canvas.x - 0.035 * head.sin
        level = canvas.y / head.half_height
        taper = 1.0 - 0.12 * level - 0.03 * level * level
        self.outline = ellipse(self.x / taper, canvas.y, head.half_width, head.half_height)
        self.radius = head.half_width * taper * (1 - level * level).clamp_min(0.0).sqrt()
        self.inside = coverage(self.outline, canvas.pixel)
        self.u, self.z = head.turn_back(self.x, self.radius)
        self.head = head

    @cached_property
    def au(self) -> Tensor:
        return self.u.abs()
