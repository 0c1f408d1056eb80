"""Warping by a flow, and the correlations that flows are found by: torch operators, nothing compiled.

A flow [B,2,h,w] (x, then y, in pixels of its own size) points back: what is at p afterwards was at p + flow(p) before.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad


def places(like: Tensor) -> Tensor:
    """Where each pixel of [B,c,h,w] is: [1,2,h,w], x then y, from 0."""
    h, w = like.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(h, device=like.device, dtype=torch.float32),
        torch.arange(w, device=like.device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([x, y])[None]


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """x [B,c,h,w] read at p + flow(p), bilinearly; beyond the border, what is on it. No flow leaves x as it is."""
    h, w = x.shape[2:]
    scale = torch.tensor([max(w - 1, 1), max(h - 1, 1)], device=x.device, dtype=torch.float32).view(1, 2, 1, 1) / 2
    at = (places(x) + flow.float()) / scale - 1  # [B,2,h,w]
    found = grid_sample(x.float(), at.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)
    return found.to(x.dtype)


def resized_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """A flow in another size, in that one's pixels."""
    h, w = flow.shape[2:]
    if (h, w) == tuple(size):
        return flow
    shrinks = size[0] < h
    resized = interpolate(flow, size=size, mode="area") if shrinks else interpolate(flow, size=size, mode="bilinear")
    return resized * flow.new_tensor([size[1] / w, size[0] / h]).view(1, 2, 1, 1)


def whole_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Of each place of `first` with all places of `second`, features [B,c,h,w] of length 1: [B,h*w,h,w]."""
    return torch.einsum("bchw,bcn->bnhw", first, second.flatten(2))


def near_correlation(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """Of each place of `first` with those of `second` up to `radius` pixels away: [B,(2 radius + 1)^2,h,w].

    Each line of the one is multiplied with the nearest lines of the other; of the products, the bands are kept.
    """
    batch, _, h, w = first.shape
    side, wide = 2 * radius + 1, w + 2 * radius
    lines = pad(second, (radius,) * 4).unfold(2, side, 1)  # [B,c,h,w + 2 radius,side]
    products = first.permute(0, 2, 3, 1)[:, :, None] @ lines.permute(0, 2, 4, 1, 3)  # [B,h,side,w,w + 2 radius]
    shifted = pad(products.flatten(3), (0, w)).view(batch, h, side, w, wide + 1)  # each row begins one further right
    return shifted[..., :side].permute(0, 2, 4, 1, 3).reshape(batch, side * side, h, w)


def expected_flow(correlation: Tensor, sharpness: Tensor) -> Tensor:
    """The flow to the mean of where `whole_correlation` [B,h*w,h,w] points, by a softmax: [B,2,h,w]."""
    share = (correlation.float() * sharpness).softmax(dim=1)
    at = places(correlation)
    return torch.einsum("bnhw,cn->bchw", share, at[0].flatten(1)) - at
