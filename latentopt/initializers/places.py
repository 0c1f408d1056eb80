"""Places of a grid that are worth a closer look: where a picture lies, judged without optimising anything."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentopt.geometry.moves import move_matrix, moved_back, taken_from_inside
from latentopt.pictures.resizing import shrink
from latentopt.statistics.ridge import predictions
from latentopt.watching.phases import Advance

RIDGE = torch.tensor([0.01])  # of the square of the largest singular value of samples
EXPLAINED_AT = 32  # pixels of height, at most
LEAST_INSIDE = 0.25  # of the unmoved picture: what less is seen of is no evidence


def grid_of_places(angle: float, shift: float, angles: int, shifts: int) -> Tensor:
    """Angles (radians) and shifts (widths) over the ranges, evenly, [P,3]; one of a range is its middle."""
    turns, ways = (
        torch.linspace(-most, most, n) if n > 1 else torch.zeros(1) for most, n in ((angle, angles), (shift, shifts))
    )
    return torch.cartesian_prod(turns, ways, ways)


def unlikeness_of_drawn(picture: Tensor, drawn: Tensor) -> Tensor:
    """How unlike pictures [B,C,h,w] are to known latents that were drawn at every place [P,C,h,w], whatever the light:
    the cosine about the mean, negative, [B,P].
    """
    x, y = (image.flatten(1) - image.flatten(1).mean(dim=1, keepdim=True) for image in (picture, drawn))
    return torch.stack([-torch.cosine_similarity(row, y, dim=1) for row in x.split(1)])


def unexplained(
    picture: Tensor, places: Tensor, samples: Tensor, w: Tensor, advance: Advance = lambda count: None
) -> tuple[Tensor, Tensor]:
    """How badly samples explain pictures [B,C,h,w] that are moved back from each of the places [P,3], and the w that
    they suggest there.

    Ridge regression on the samples [n,C,h,w], which lie unmoved, and their w [n,K] predicts both what is seen of the
    picture itself and its w. Returns the mean squared error of the former [B,P], and the latter [B,P,K]; `advance` is
    told of every place.
    """
    seen, x_all = (shrink(image, EXPLAINED_AT).cpu().double() for image in (picture, samples))
    errors, codes = [], []
    for move in move_matrix(places[:, 0], places[:, 1:]).cpu().split(1):
        inside = taken_from_inside(move, *seen.shape[2:])[0]  # [h,w]
        back = moved_back(seen, move.expand(len(seen), 3, 3))[..., inside].flatten(1)  # [B,M]
        x = x_all[..., inside].flatten(1)  # [n,M]
        drawn, code = predictions(x, torch.cat([x, w.cpu()], dim=1), back, RIDGE)[0].split([x.shape[1], w.shape[1]], 1)
        enough = inside.float().mean() >= LEAST_INSIDE
        errors.append((drawn - back).square().mean(dim=1) if enough else back.new_full((len(back),), math.inf))
        codes.append(code)
        advance(1)
    return torch.stack(errors, dim=1).to(picture), torch.stack(codes, dim=1).to(w)
