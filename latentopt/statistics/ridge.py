"""Ridge regression in its kernel form: more numbers to predict from than there are samples."""

from __future__ import annotations

import torch
from torch import Tensor


def predictions(x: Tensor, y: Tensor, wanted: Tensor, strengths: Tensor) -> Tensor:
    """What ridge regression of y [n,K] on x [n,M] predicts for `wanted` [B,M] at each of the strengths [S], [S,B,K].

    Strengths are in squares of the largest singular value of x about its mean. By the kernel x x^T, so that M may be
    large; its eigenvectors serve every strength. In float64 on the CPU: not every device has that.
    """
    x_mean, y_mean = (values.cpu().double().mean(dim=0) for values in (x, y))
    centred = x.cpu().double() - x_mean
    s, q = torch.linalg.eigh(centred @ centred.T)  # [n], [n,n]
    near, share = (wanted.cpu() - x_mean) @ centred.T @ q, q.T @ (y.cpu() - y_mean)  # [B,n], [n,K]
    ridges = strengths.to(s) * s[-1].clamp_min(torch.finfo(s.dtype).tiny)
    return torch.stack([y_mean + near / (s + ridge) @ share for ridge in ridges]).to(y)
