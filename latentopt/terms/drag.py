"""Dragging points of a picture to where they shall be, after DragGAN. B images, n points, k places, c channels.

Source: Pan et al. 2023, "Drag Your GAN: Interactive Point-based Manipulation on the Generative Image Manifold". Lengths
are given in pixels of a picture of PAPER_SIDE, as in the paper, and scaled to the generator's. Points are (x, y) in
pixels of the picture, the middle of the first at (0, 0).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from latentopt.errors import UsageError
from latentopt.protocols import Generator, Term
from latentopt.registry import nearest
from latentopt.statistics.activations import featured, finest, shapes_of
from latentopt.types import Variables, View

PAPER_SIDE = 512
FEW = 5  # points
TINY = 1e-8


class FeatureTerm(Term):
    """What looks at one activation of the generator.

    layer  its name; by default the finest that has at most `share` of the picture's longer side
    """

    sees_image = False

    def __init__(self, generator: Generator, layer: str | None, share: float) -> None:
        name = type(self).__name__.lower()
        if layer is not None and layer not in generator.activations:
            raise UsageError(f"{name}: no activation {layer!r}{nearest(layer, list(generator.activations))}")
        if not 0 < share <= 1:
            raise UsageError(f"{name}: share is a part of the picture's side above 0 and at most 1, not {share}")
        shown = {
            a: (c, h * generator.shown(a), w * generator.shown(a))
            for a, (c, h, w) in shapes_of(generator, featured(generator)).items()
        }
        self.layer = layer or finest(shown, share * max(generator.resolution))
        self.shown = generator.shown(self.layer)
        self.size = generator.resolution  # height and width
        self.activations = (self.layer,)

    def features(self, view: View) -> Tensor:
        """[B,c,h,w]."""
        return view.features[self.layer].float()

    def at(self, features: Tensor, points: Tensor) -> Tensor:
        """Bilinear samples [B,n,k,c] of features [B,c,h,w] at points [B,n,k,2] of the picture."""
        size = points.new_tensor([self.size[1], self.size[0]])
        places = self.shown * ((2 * points + 1) / size - 1)
        found = grid_sample(features, places, mode="bilinear", padding_mode="border", align_corners=False)
        return found.permute(0, 2, 3, 1)


class Drag(FeatureTerm):
    """How far the features around each point are from what they are one step further towards its target, [B].

    Motion supervision: the mean over a disc of radius `patch` around the point p, and over channels, of
    |F(q) - F(q + d)|, where d has the length `stride` and the direction of the target, and F(q) is a constant: so that
    the optimiser moves what lies at q to q + d. The points' values are added up; one that is within `radius` of its
    target counts 0, and the whole is 0 when all have arrived.
    Tracking: before that, each point moves to where, within `search` of it, the features are nearest (L1) to those that
    the point had at the first measurement. State remembers the points.

    points   [[x, y, to_x, to_y], ...]: one list of points for all images, or a list of such lists, one an image
    patch, search, stride, radius   in pixels of a picture of 512. `patch` and `stride` are at least `least` pixels of
             this picture, `radius` at least half as much. With more than FEW points the radius is twice as large
    """

    varies = True
    examples = ({"points": [[10.0, 12.0, 14.0, 9.0], [20.0, 20.0, 20.0, 17.0]]}, {"points": [[3, 3, 9, 9]], "share": 1})

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        points: list | None = None,
        layer: str | None = None,
        share: float = 0.5,
        patch: float = 3.0,
        search: float = 12.0,
        stride: float = 1.0,
        radius: float = 1.0,
        least: float = 1.0,
    ) -> None:
        super().__init__(generator, layer, share)
        for name, value in {"patch": patch, "search": search, "stride": stride, "radius": radius}.items():
            if not 0 < value < math.inf:
                raise UsageError(f"drag: {name} must be a number above 0, not {value}")
        given = checked_points(points, len(target), self.size).to(target.device)  # [B or 1,n,4]
        self.handles, self.targets = given[..., :2], given[..., 2:]
        unit = max(self.size) / PAPER_SIDE
        self.stride = max(stride * unit, least)
        self.radius = max(radius * unit, least / 2) * (1 if given.shape[1] <= FEW else 2)
        spacing = min(unit, 1.0)
        self.patch = disc(max(patch * unit, least), max(patch * unit, least) / 3).to(target.device)  # [k,2]
        self.window = square(search * unit, spacing).to(target.device)  # [k,2]

    def index(self, rows: Tensor) -> Drag:
        if len(self.handles) == 1:
            return self
        picked = copy.copy(self)
        picked.handles, picked.targets = self.handles[rows], self.targets[rows]
        return picked

    def follow(self, view: View) -> Variables:
        features = self.features(view)
        if not view.remembered:
            points = self.handles.expand(len(features), -1, -1)
            return {"points": points.clone(), "templates": self.at(features, points[:, :, None])[:, :, 0]}
        places = view.remembered["points"][:, :, None] + self.window  # [B,n,k,2]
        last = places.new_tensor([self.size[1] - 1, self.size[0] - 1])
        places = places.clamp(min=0).minimum(last)
        apart = (self.at(features, places) - view.remembered["templates"][:, :, None]).abs().sum(dim=3)  # [B,n,k]
        best = apart.argmin(dim=2)[..., None, None].expand(-1, -1, 1, 2)
        return {"points": places.gather(2, best)[:, :, 0]}

    def __call__(self, view: View) -> Tensor:
        points, features = view.remembered["points"], self.features(view)
        way = self.targets - points  # [B,n,2]
        length = way.norm(dim=2, keepdim=True)
        step = way / length.clamp_min(TINY) * length.clamp_max(self.stride)
        places = points[:, :, None] + self.patch  # [B,n,k,2]
        here = self.at(features, places).detach()
        there = self.at(features, places + step[:, :, None])
        apart = (there - here).abs().mean(dim=(2, 3))  # [B,n]
        return (apart * (length[..., 0] > self.radius)).sum(dim=1)


class Stays(FeatureTerm):
    """Mean over places and channels of |F - F0| where the mask is 0, [B]: F0 are the features at the first measurement.

    Without a mask it is 0. DragGAN weighs it 20.
    """

    varies = True

    def __init__(self, generator: Generator, target: Tensor, *, layer: str | None = None, share: float = 0.5) -> None:
        super().__init__(generator, layer, share)

    def index(self, rows: Tensor) -> Stays:
        return self

    def follow(self, view: View) -> Variables:
        return {} if view.remembered or view.mask is None else {"features": self.features(view).clone()}

    def __call__(self, view: View) -> Tensor:
        features = self.features(view)
        if view.mask is None:
            return features.new_zeros(len(features))
        inner = [round(self.shown * side) for side in features.shape[2:]]
        still = 1 - interpolate(view.mask.to(features), inner, mode="area")  # [B,1,h,w]
        top, left = ((whole - part) // 2 for whole, part in zip(features.shape[2:], inner, strict=True))
        change = (features - view.remembered["features"])[..., top : top + inner[0], left : left + inner[1]]
        return (change.abs() * still).mean(dim=(1, 2, 3))


def disc(radius: float, spacing: float) -> Tensor:
    """Places [k,2] of a grid of that spacing around 0, no further than `radius`."""
    places = square(radius, spacing)
    return places[places.norm(dim=1) <= radius + TINY]


def square(radius: float, spacing: float) -> Tensor:
    """Places [k,2] (x, y) of a grid of that spacing around 0, no further than `radius` either way; the middle first,
    so that it wins where all are alike.
    """
    n = math.floor(radius / spacing + TINY)
    steps = torch.arange(-n, n + 1) * spacing
    places = torch.cartesian_prod(steps, steps)
    return places[places.abs().sum(dim=1).argsort(stable=True)]


def checked_points(points: Sequence | None, images: int, size: tuple[int, int]) -> Tensor:
    """[B or 1,n,4]. Raises UsageError for what are no points within a picture of that size."""
    if not points:
        raise UsageError("drag: needs points, such as latentopt drag --point 30,40:34,40")
    try:
        found = torch.tensor(points, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"drag: points are lists [x, y, to_x, to_y], not {points!r}") from error
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[2] != 4 or len(found) not in (1, images) or not found.isfinite().all():
        raise UsageError(
            f"drag: points are lists [x, y, to_x, to_y], the same for all {images} images or one list each"
        )
    height, width = size
    last = found.new_tensor([width - 1, height - 1, width - 1, height - 1])
    outside = ((found < 0) | (found > last)).any(dim=2)
    if outside.any():
        raise UsageError(
            f"drag: {found[outside][0].tolist()} is outside the picture; x is from 0 to {width - 1}, y to {height - 1}"
        )
    return found
