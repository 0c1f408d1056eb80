"""Draws portraits from their attributes, back to front, from signed distances.

The features of the face are drawn in the frontal coordinates (u, y) of the head's surface (`portrait_head`), so they
shift, foreshorten and vanish behind the outline as on a real turning head. What stands off the surface (nose,
glasses, hair) does the same with a larger radius and therefore moves further.

Everything that is not a function of yaw, light_direction or position_x is symmetric in x, so that mirrored attributes
give the mirrored picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.data.portrait_head import Canvas, Head, Surface
from latentopt.data.shapes import box, coverage, ellipse, lens, paint_, smooth_max, smoothstep


def draw(attributes: dict[str, Tensor], x: Tensor, y: Tensor, pixel: float) -> Tensor:
    """Portraits on a pixel grid: attributes {name: [B]}, x [W], y [H], pixel side -> [B,3,H,W] in [0,1]."""
    head = Head(attributes)
    image = background(head, x.view(1, 1, 1, -1), y.view(1, 1, -1, 1))
    canvas = head.canvas(image, x, y, pixel)
    back_hair(head, canvas)
    body(head, canvas)
    window = canvas.crop(-0.6, 0.6, -0.62, 0.80)
    ears(head, window, front=False)
    surface = Surface(head, window)
    light = head.shade(window.x, window.y)
    paint_(window.image, surface.inside, head.skin * light)
    cheeks(head, window, surface)
    beard(head, window, surface, light)
    ears(head, window, front=True)
    mouth(head, canvas.crop(-0.5, 0.5, 0.08, 0.5))
    eyes(head, canvas.crop(-0.5, 0.5, -0.42, 0.16))
    nose(head, canvas.crop(-0.5, 0.5, -0.2, 0.36))
    front_hair(head, canvas)
    glasses(head, canvas.crop(-0.6, 0.6, -0.30, 0.24))
    return image.clamp_(0, 1)


def background(head: Head, x: Tensor, y: Tensor) -> Tensor:
    """A wall lit from the side of the light, darker towards the bottom."""
    glow = 1.0 + 0.16 * x * head.a["light_direction"] - 0.14 * y - 0.10 * (x * x + y * y)  # [B,1,H,W]
    return (0.12 + 0.80 * head.colour("background")) * glow


def hair_outline(head: Head, x: Tensor, y: Tensor, end: Tensor, volume: float) -> tuple[Tensor, Tensor]:
    """Signed distance of the hair's outline that ends at height `end`, and its radius at each level."""
    thick = volume + 0.045 * head.a["hair_length"]
    radius_x, radius_y = head.half_width + thick, head.half_height + 1.2 * thick
    upper = y.clamp_max(0.0)
    radius = radius_x * (1 - (upper / radius_y).square()).clamp_min(0).sqrt() * (1 + 0.10 * y.clamp_min(0))
    distance = ellipse(x / (1 + 0.10 * y.clamp_min(0)), upper, radius_x, radius_y)
    return smooth_max(distance, y - end, 0.16), radius


def back_hair(head: Head, canvas: Canvas) -> None:
    end = 0.10 + 0.85 * head.a["hair_length"]
    distance, _ = hair_outline(head, canvas.x + 0.08 * head.sin, canvas.y, end, 0.03)
    canvas.paint(distance, head.hair * 0.62)


def body(head: Head, canvas: Canvas) -> None:
    """Neck, shirt and its collar."""
    low = canvas.crop(-9.0, 9.0, 0.2, 9.0)
    side = (low.x / 0.5).clamp(-1, 1) * head.a["light_direction"]
    under_chin = smoothstep(low.y, 0.40, 0.80)
    neck = head.skin * (0.62 + 0.22 * under_chin + 0.14 * side)
    low.paint(box(low.x, low.y - 0.5, 0.17 * head.wide, 0.4), neck)
    shirt = 0.06 + 0.88 * head.colour("shirt")
    shoulders = ellipse(low.x, (low.y - 1.30).clamp_max(0), 0.84, 0.60)
    collar = ellipse(low.x - 0.02 * head.sin, low.y - 0.68, 0.23, 0.17)
    low.paint(torch.maximum(shoulders, -collar), shirt * (0.95 + 0.18 * side - 0.25 * low.x.square()))
    low.paint(torch.maximum(shoulders, (collar - 0.02).abs() - 0.02), shirt * 0.7)
    low.paint(torch.maximum(shoulders, collar), neck)


def ears(head: Head, canvas: Canvas, front: bool) -> None:
    """Both ears: behind the face, and over it as far as the turn brings them to the front."""
    for side in (-1.0, 1.0):
        forward = -side * head.sin  # depth of this ear
        x = canvas.x - side * (head.half_width * 0.99) * head.cos + 0.02 * head.sin
        y = canvas.y - 0.02
        opacity = smoothstep(forward, 0.02, 0.30) if front else 1.0
        skin = head.skin * (0.86 + 0.22 * side * head.a["light_direction"])
        canvas.paint(ellipse(x, y, 0.062, 0.105), skin, opacity)
        canvas.paint(ellipse(x, y, 0.030, 0.060), skin * 0.76, opacity)


def cheeks(head: Head, canvas: Canvas, surface: Surface) -> None:
    """A blush that grows with the smile."""
    far = torch.hypot(surface.au - 0.21 * head.wide, surface.y - 0.17)
    mask = (1 - far / 0.14).clamp_(0, 1) * surface.inside
    blush = head.skin * torch.tensor([1.0, 0.62, 0.58], dtype=far.dtype, device=far.device).view(1, 3, 1, 1)
    paint_(canvas.image, mask * (0.22 + 0.20 * head.a["smile"]), blush)


def beard(head: Head, canvas: Canvas, surface: Surface, light: Tensor) -> None:
    """From stubble to a full beard: opacity, height on the cheeks and length below the chin all grow."""
    amount = head.a["beard"]
    longer = 0.12 * amount * smoothstep(canvas.y / head.half_height, 0.0, 0.9)
    outline = surface.outline - longer
    upper = 0.215 - 2.2 * surface.u.square() / head.wide.square()
    distance = smooth_max(outline, (upper - surface.y) * 0.7, 0.03)
    canvas.paint(distance, head.hair * 0.80 * light, 1 - (1 - amount).square(), canvas.pixel + 0.02)


def mouth(head: Head, canvas: Canvas) -> None:
    """Lips bent by the smile; a wide smile opens and shows teeth."""
    surface, smile = Surface(head, canvas), head.a["smile"]
    half = (0.125 + 0.035 * smile) * head.wide
    bow = (1 - (surface.u / half).square()).clamp_min(-0.6)
    opening = 0.085 * smoothstep(smile, 0.0, 1.0)
    y = surface.y - 0.285 - 0.065 * smile * (bow - 0.5)
    centre = y - 0.5 * opening * bow
    inside = surface.inside
    lip = head.skin * torch.tensor([0.86, 0.50, 0.50], dtype=y.dtype, device=y.device).view(1, 3, 1, 1)
    canvas.paint(lens(surface.u, centre, half, 0.036 + 0.5 * opening), lip, inside)
    line = torch.maximum(y.abs() - 0.010, surface.u.abs() - half)
    canvas.paint(line, lip * 0.40, inside)
    gap = lens(surface.u, centre, half * 0.92, 0.5 * opening)
    teeth = coverage(y - 0.6 * opening * bow, 0.03)
    colour = torch.lerp(torch.full_like(lip, 0.25) * lip, torch.full_like(lip, 0.97), teeth)
    canvas.paint(gap, colour, inside * smoothstep(opening, 0.0, 0.03))


def eyes(head: Head, canvas: Canvas) -> None:
    """Eyes and brows; both sides at once through |u|."""
    surface, a = Surface(head, canvas), head.a
    x, y = surface.au - head.eye_x, surface.y + 0.05
    inside, pixel = surface.inside, canvas.pixel
    half_height = 0.012 + 0.070 * a["eye_opening"]
    almond = lens(x, y, 0.105, half_height)
    opened = coverage(almond, pixel) * inside
    canvas.paint(almond - 0.022, head.skin * 0.70, inside, 0.03 + pixel)
    paint_(canvas.image, opened, torch.full_like(head.skin, 0.98))
    far = torch.hypot(x, y)
    canvas.paint(far - 0.058, head.iris, opened)
    canvas.paint(far - 0.028, head.iris * 0.12, opened)
    glint = torch.hypot(surface.u.sign() * x - 0.025 * a["light_direction"], y + 0.022)
    canvas.paint(glint - 0.016, torch.ones_like(head.skin), opened)
    lash = torch.maximum(almond.abs() - 0.014, y - 0.3 * half_height)
    canvas.paint(lash, head.skin * 0.14, inside)
    tilt = a["brow_tilt"]
    line = y + 0.150 + 0.022 * a["eye_opening"] + 0.55 * tilt * x + 1.2 * x.square() - 0.01 * tilt
    brow = box(x - 0.005, line, 0.115, 0.026) - 0.004
    canvas.paint(brow, head.hair * 0.62, inside, pixel + 0.012)


def nose(head: Head, canvas: Canvas) -> None:
    """Stands off the face: its tip moves further with the yaw than the features around it."""
    light = head.a["light_direction"]
    top, tip = -0.06 * head.tall, 0.135 * head.tall
    t = ((canvas.y - top) / (tip - top)).clamp(0, 1)
    centre = head.sin * (head.half_width * 1.02 + 0.10 * t + 0.035)
    x, below = canvas.x - centre, canvas.y - (top + t * (tip - top))
    far = torch.hypot(x, below)
    radius = 0.018 + 0.046 * t * t
    shaded = torch.hypot(x + 0.022 * light + 0.02 * head.sin, below - 0.02) - radius
    canvas.paint(shaded, head.skin * 0.66, 0.9 * t, 0.03 + canvas.pixel)
    canvas.paint(far - radius, head.skin * (1.0 + 0.06 * light * x / 0.06), 0.25 + 0.75 * t, 0.02 + canvas.pixel)
    canvas.paint(ellipse(x - 0.02 * light, canvas.y - tip + 0.01, 0.022, 0.022), head.skin * 1.22, 0.5, 0.05)


def front_hair(head: Head, canvas: Canvas) -> None:
    """The hair in front: a cap on the turning head with an opening for the face, as low as the fringe."""
    a = head.a
    end = -0.10 + 0.98 * a["hair_length"]
    x = canvas.x - 0.01 * head.sin
    outline, radius = hair_outline(head, x, canvas.y, end, 0.03)
    u, z = head.turn_back(x, radius)
    hairline = (-0.39 + 0.21 * a["fringe"]) * head.tall + 0.5 * u.square() * (1 - 0.7 * a["fringe"])
    sides = (0.50 + 0.06 * a["hair_length"]) * radius - z
    covered = -torch.minimum(-sides, canvas.y - hairline)
    shine = smoothstep((canvas.y + 0.42 * head.tall + 0.5 * u.square()).abs(), 0.11, 0.0)
    colour = head.hair * (head.shade(x, canvas.y) + 0.30 * shine)
    canvas.paint(torch.maximum(outline, -covered), colour, 1.0, canvas.pixel + 0.006)


def glasses(head: Head, canvas: Canvas) -> None:
    surface = Surface(head, canvas)
    u, z = head.turn_back(surface.x, surface.radius, lift=0.03)
    x, y = u.abs() - head.eye_x - 0.005, surface.y + 0.04
    ring = ellipse(x, y, 0.145, 0.125)
    shown = head.a["glasses"] * coverage(-z, 0.1)
    frame = torch.full_like(head.skin, 0.07)
    canvas.paint(ring, torch.full_like(head.skin, 0.90), 0.16 * shown)
    canvas.paint(ring.abs() - 0.017, frame, shown)
    bridge = torch.maximum((y + 0.03).abs() - 0.014, x + 0.13)
    temple = torch.maximum((y + 0.03).abs() - 0.014, 0.13 - x)
    canvas.paint(torch.minimum(bridge, torch.maximum(temple, surface.outline)), frame, shown)
