"""The square of a photograph that an aligned picture shows, from four points of a face.

Points and quads are float64 tensors in pixels of the upright photograph, x to the right and y down, from the outer
corner of its first pixel, whose middle is (0.5, 0.5). A quad [4,2] has its corners in the order top left, bottom left,
bottom right, top right of the aligned picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentopt.errors import UsageError

POINTS = ("left eye", "right eye", "left corner of the mouth", "right corner of the mouth")
"""As they lie in the photograph of an upright face, "left" to the left: the rows of points [4,2]."""

SMALLEST_SIDE = 2.0  # pixels of a quad
LARGEST_SHARE = 8.0  # of a quad's side, in longer sides of the photograph


def face_quad(points: Tensor) -> Tensor:
    """The quad [4,2] of a face with these `points` [4,2], as the FFHQ pictures were cut.

    Source: Karras, Laine and Aila 2019, appendix A. Its horizontal axis x is half a side long: the direction from eye
    to eye less that from the eyes to the mouth, turned by 90 degrees; half a side is twice the distance of the eyes or
    1.8 times that from eyes to mouth, whichever is more; the centre lies a tenth of the way from the eyes to the mouth.
    Raises UsageError for points that lie on each other.
    """
    left_eye, right_eye, left_mouth, right_mouth = points.double()
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    across, down = right_eye - left_eye, mouth - eyes
    x = across - _quarter_turn(down)
    half = max(2.0 * float(across.norm()), 1.8 * float(down.norm()))
    if not math.isfinite(half) or float(x.norm()) < 1e-6:
        raise UsageError(f"the points {points.tolist()} are no face's: they lie on each other")
    return _square(eyes + 0.1 * down, x / x.norm() * half)


def box_quad(left: float, top: float, side: float) -> Tensor:
    """The upright square [4,2] of `side` pixels whose corner is (left, top)."""
    half = side / 2
    return _square(
        torch.tensor([left + half, top + half], dtype=torch.float64), torch.tensor([half, 0.0], dtype=torch.float64)
    )


def turned_quad(centre: Tensor, side: float, across: Tensor) -> Tensor:
    """The square [4,2] of `side` pixels about `centre` [2] whose horizontal axis goes along `across` [2]."""
    return _square(centre.double(), across.double() / across.norm().clamp_min(1e-9) * side / 2)


def _square(centre: Tensor, x: Tensor) -> Tensor:
    """The corners around `centre`, x [2] from it to the middle of the right side."""
    y = _quarter_turn(x)
    return torch.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _quarter_turn(v: Tensor) -> Tensor:
    """x to the right turned to y down."""
    return torch.stack([-v[1], v[0]])


def side_of(quad: Tensor) -> float:
    """The length of its upper side, in pixels."""
    return float((quad[3] - quad[0]).norm())


def check_quad(quad: Tensor, size: tuple[int, int]) -> None:
    """Raise UsageError for a quad that shows nothing of a photograph of `size` (H,W), or hardly anything."""
    height, width = size
    side, centre = side_of(quad), quad.mean(dim=0)
    if not bool(quad.isfinite().all()) or side < SMALLEST_SIDE:
        raise UsageError(f"a square of {side:.3g} pixels shows nothing; at least {SMALLEST_SIDE:g} are needed")
    if side > LARGEST_SHARE * max(size):
        raise UsageError(f"a square of {side:.0f} pixels is far larger than the picture, {width}x{height}")
    if not (0 <= centre[0] <= width and 0 <= centre[1] <= height):
        place = f"({centre[0]:.0f}, {centre[1]:.0f})"
        raise UsageError(f"the square's centre {place} lies outside the picture, {width}x{height} pixels")


def into_quad(quad: Tensor) -> Tensor:
    """The homography [3,3] that takes the unit square (x to the right, y down) to the quad."""
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    rows, right = [], []
    for (u, v), (x, y) in zip(square.tolist(), quad.double().tolist(), strict=True):
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
        right += [x, y]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))
    return torch.cat([solved, torch.ones(1, dtype=torch.float64)]).view(3, 3)


def projected(matrix: Tensor, points: Tensor) -> Tensor:
    """Points [...,2] through a homography [3,3]."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]
