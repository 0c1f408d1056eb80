"""Moves of pictures as matrices [B,3,3]: made, taken apart, fitted to landmarks, undone on a picture.

Coordinates are in widths of the picture, from its centre, x to the right and y down. A move takes the point p of the
unmoved picture to `move @ p`; its angle is anticlockwise, as one looks at the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

FLAT = 1e-6  # a move's area factor below which a picture is flattened to nothing


def move_matrix(angle: Tensor, shift: Tensor, log_scale: Tensor | None = None) -> Tensor:
    """Turned by `angle` [B] (radians) and enlarged by exp(`log_scale`) [B] about the centre, then shifted by [B,2]."""
    scale = torch.ones_like(angle) if log_scale is None else log_scale.exp()
    c, s, zero, one = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [c, s, shift[:, 0], -s, c, shift[:, 1], zero, zero, one]
    return torch.stack(rows, dim=1).unflatten(1, (3, 3))


@dataclass(frozen=True)
class PictureMove:
    """A move as it is asked for: degrees anticlockwise, then widths right and down."""

    rotate: float = 0.0
    translate: tuple[float, float] = (0.0, 0.0)

    @property
    def matrix(self) -> Tensor:
        """[1,3,3]."""
        return move_matrix(torch.tensor([math.radians(self.rotate)]), torch.tensor([self.translate]))

    @property
    def label(self) -> str:
        """As in names of files: `rotate+20_translate+0.1,+0`."""
        parts = [f"rotate{self.rotate:+g}"] if self.rotate else []
        if any(self.translate):
            parts.append("translate" + ",".join(f"{part:+g}" for part in self.translate))
        return "_".join(parts) or "moved"

    def __call__(self, inputs: GeneratorInputs) -> GeneratorInputs:
        """The same pictures, moved from where they lie."""
        matrix = self.matrix.to(inputs.ws)
        before = inputs.transform
        move = matrix.expand(len(inputs), 3, 3) if before is None else matrix @ before.to(inputs.ws)
        return inputs.replace(transform=move)


def parts_of(move: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """angle [B], shift [B,2] and log_scale [B] of the move, or of the nearest that only turns, enlarges and shifts."""
    c, s = (move[:, 0, 0] + move[:, 1, 1]) / 2, (move[:, 0, 1] - move[:, 1, 0]) / 2
    return torch.atan2(s, c), move[:, :2, 2], torch.hypot(c, s).log()


def between_moves(first: Tensor, second: Tensor, t: float) -> Tensor:
    """From the move `first` [B,3,3] (t = 0) to `second` (t = 1): turned the shorter way, then stretched and shifted in
    even steps. Halfway between two matrices, entry by entry, a picture may be flattened to nothing.

    Source: Shoemake and Duff 1992, Matrix animation and polar decomposition; in the plane the nearest rotation is that
    of `parts_of`.
    """
    angle, to = parts_of(first)[0], parts_of(second)[0]
    stretch, wanted = (_turned(-a) @ m[:, :2, :2] for a, m in ((angle, first), (to, second)))  # [B,2,2]
    way = torch.remainder(to - angle + math.pi, 2 * math.pi) - math.pi
    between = torch.lerp(first, second, t)
    between[:, :2, :2] = _turned(angle + t * way) @ torch.lerp(stretch, wanted, t)
    return between


def _turned(angle: Tensor) -> Tensor:
    """[B,2,2]."""
    return move_matrix(angle, angle.new_zeros(len(angle), 2))[:, :2, :2]


def inverse_move(move: Tensor) -> Tensor:
    """The move that undoes it, [B,3,3]; its last row is taken to be (0, 0, 1)."""
    (a, b, x), (c, d, y) = ([move[:, i, j] for j in range(3)] for i in range(2))
    area, zero, one = a * d - b * c, torch.zeros_like(a), torch.ones_like(a)
    rows = [d / area, -b / area, (b * y - d * x) / area, -c / area, a / area, (c * x - a * y) / area, zero, zero, one]
    return torch.stack(rows, dim=1).unflatten(1, (3, 3))


def is_move(move: Tensor) -> bool:
    """Whether every matrix of [B,3,3] is one that a picture can be drawn with."""
    if move.ndim != 3 or move.shape[1:] != (3, 3) or not bool(move.isfinite().all()):
        return False
    last = move.new_tensor([0.0, 0.0, 1.0])
    return bool((move[:, 2] == last).all() and (torch.linalg.det(move.double().cpu()).abs() > FLAT).all())


def check_takes_transform(generator: Generator) -> None:
    """Raise UsageError for a generator that draws no move."""
    if not generator.takes_transform:
        raise UsageError(
            f"{generator.name}: a {generator.family} generator cannot draw a picture turned or shifted: leave the "
            "placement out"
        )


def fitted_move(points: Tensor, places: Tensor, scaled: bool) -> Tensor:
    """The move [1,3,3] that takes `points` [n,2] nearest to `places` [n,2] by least squares, n >= 2.

    Source: Umeyama 1991, in two dimensions as one division of complex numbers; without `scaled` it enlarges nothing.
    """
    p, q = points.double(), places.double()
    p_mean, q_mean = p.mean(dim=0), q.mean(dim=0)
    u, v = (p - p_mean).T, (q - q_mean).T  # [2,n] each
    c, s = (u * v).sum(), (u[1] * v[0] - u[0] * v[1]).sum()
    angle = torch.atan2(s, c)[None]
    scale = torch.hypot(c, s) / u.square().sum() if scaled else torch.ones(())
    turned = move_matrix(angle, torch.zeros(1, 2).double(), scale.double().log()[None])
    turned[0, :2, 2] = q_mean - turned[0, :2, :2] @ p_mean
    return turned.float()


def moved_back(image: Tensor, move: Tensor) -> Tensor:
    """The picture [B,C,H,W] before `move` [B,3,3], resampled; what comes in from outside repeats the border."""
    places = _sampled_places(move, list(image.shape))
    return F.grid_sample(image, places.to(image), padding_mode="border", align_corners=False)


def taken_from_inside(move: Tensor, height: int, width: int) -> Tensor:
    """Which pixels of a picture that is moved back from `move` [B,3,3] lay inside it: truth values [B,H,W]."""
    return (_sampled_places(move, [len(move), 1, height, width]).abs() <= 1).all(dim=3)


def _sampled_places(move: Tensor, shape: list[int]) -> Tensor:
    """Where the pixels of the picture of that shape lie after the move, [B,H,W,2] in halves of width and height."""
    height, width = shape[2:]
    aspect = move.new_tensor([[1.0, height / width], [width / height, 1.0]])
    theta = move[:, :2].clone()
    theta[:, :, :2] *= aspect
    theta[:, :, 2] *= 2 * move.new_tensor([1.0, width / height])
    return F.affine_grid(theta, shape, align_corners=False)
