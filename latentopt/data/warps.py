"""Flows that are known because they were made: random affine maps and thin-plate splines, and turned heads.

A flow [B,2,H,W] (x, then y, in pixels) points back: what is at p afterwards was at p + flow(p) before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentopt.data.portrait_head import MAX_YAW, Head, Surface
from latentopt.data.portraits import NAMES

TURN, STRETCH, SHIFT, BEND = 0.25, 0.18, 0.12, 0.06  # radians, share, and shares of the half side
KNOTS = 4  # of the spline, a side
TINY = 1e-9


def grid(size: tuple[int, int], like: Tensor) -> Tensor:
    """Places [H,W,2] (x, y) of the pixels; the picture spans [-1,1] both ways."""
    y, x = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n, device=like.device) for n in size)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=2)


def affine_flow(batch: int, size: tuple[int, int], rng: torch.Generator, like: Tensor) -> Tensor:
    """A random turn, stretch and shift of each picture: [B,2,H,W]."""
    draw = torch.rand(batch, 5, generator=rng, device=rng.device).to(like.device) * 2 - 1
    angle, wider, taller = TURN * draw[:, 0], 1 + STRETCH * draw[:, 1], 1 + STRETCH * draw[:, 2]
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos * wider, -sin * taller, sin * wider, cos * taller], dim=1).view(-1, 2, 2)
    at = grid(size, like)  # [H,W,2]
    moved = torch.einsum("bij,hwj->bhwi", matrix, at) + SHIFT * draw[:, None, None, 3:]
    return _in_pixels(moved - at, size)


def spline_flow(batch: int, size: tuple[int, int], rng: torch.Generator, like: Tensor) -> Tensor:
    """A thin-plate spline through random shifts of a grid of knots: [B,2,H,W]."""
    knots = grid((KNOTS, KNOTS), like).reshape(-1, 2)  # [K,2]
    shifts = BEND * torch.randn(batch, len(knots), 2, generator=rng, device=rng.device).to(like.device)
    at = grid(size, like).reshape(-1, 2)
    weights = torch.linalg.solve(_spline_system(knots), torch.cat([shifts, shifts.new_zeros(batch, 3, 2)], dim=1))
    basis = torch.cat([_bending(at, knots), torch.ones_like(at[:, :1]), at], dim=1)  # [HW,K+3]
    return _in_pixels((basis @ weights).view(batch, *size, 2), size)


def _spline_system(knots: Tensor) -> Tensor:
    plane = torch.cat([torch.ones_like(knots[:, :1]), knots], dim=1)  # [K,3]
    upper = torch.cat([_bending(knots, knots), plane], dim=1)
    return torch.cat([upper, torch.cat([plane.T, plane.new_zeros(3, 3)], dim=1)])


def _bending(at: Tensor, knots: Tensor) -> Tensor:
    """r^2 log r between places [N,2] and knots [K,2]."""
    square = (at[:, None] - knots[None]).square().sum(dim=2)
    return square * (square + TINY).log() / 2


def _in_pixels(shift: Tensor, size: tuple[int, int]) -> Tensor:
    """Shifts [B,H,W,2] of places in [-1,1] as a flow [B,2,H,W]."""
    return (shift * shift.new_tensor([size[1] / 2, size[0] / 2])).permute(0, 3, 1, 2)


def head_flow(before: Tensor, after: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The flow between two portraits that differ in yaw and position alone, attributes [B,A] each: [B,2,H,W], and where
    it is known [B,1,H,W]: on the face, where the point of its surface is in view in both.
    """
    first, second = (dict(zip(NAMES, x.float().unbind(1), strict=True)) for x in (before, after))
    shorter = min(size)
    y, x = ((torch.arange(n, device=after.device) - (n - 1) / 2) * 2 / shorter for n in size)
    old, head = Head(first), Head(second)
    there = head.canvas(x.new_empty(len(before), 3, len(y), len(x)), x, y, 2 / shorter)
    surface = Surface(head, there)
    angle = torch.atan2(surface.u, surface.z)  # of the point of the head, from the front
    was = angle + MAX_YAW * old.a["yaw"]
    seen = (surface.outline < -2 * there.pixel) & (was.abs() < math.pi / 2) & (surface.radius > 0)
    x_before = surface.radius * was.sin() + 0.035 * old.sin
    at_x, at_y = old.shown_at(x_before, there.y)
    flow = torch.cat([at_x - x.view(1, 1, 1, -1), at_y.expand_as(at_x) - y.view(1, 1, -1, 1)], dim=1) * shorter / 2
    return flow, seen.float()
