"""The small tables of L-BFGS, products of the vectors that it keeps, and the direction that follows from them alone.

They are counted by numpy: torch would take longer to call than to count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def products(history: Tensor, v: Tensor) -> Tensor:
    """[b,H], of the rows of each history [b,H,D] with v [b,D]."""
    if v.device.type == "cpu":  # several times faster there than the batched product
        return torch.stack([rows @ one for rows, one in zip(history, v, strict=True)])
    return torch.bmm(history, v[:, :, None])[:, :, 0]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[b], of tensors [b,D]."""
    return products(a[:, None], b)[:, 0]


def with_history(v: Tensor, pairs: Tensor, history: int) -> Array:
    """Products of v [b,D] with the filled slots of s or y [b,h,D]; 0 for the others, [b,H]."""
    return np.pad(host(products(pairs, v)), ((0, 0), (0, history - pairs.shape[1])))


def host(x: Tensor) -> Array:
    """A small tensor where numpy works on it; on a CPU the same memory."""
    return x.cpu().numpy()


def beside(tensor: Tensor, table: Array, dtype: torch.dtype | None = None) -> Tensor:
    """A small table where `tensor` lies, of its type unless another is given; the same memory where it can be."""
    return torch.from_numpy(table).to(tensor.device, dtype or tensor.dtype)


def coefficients(sy: Array, yy: Array, pairs: Array, s_g: Array, y_g: Array) -> tuple[Array, Array, Array]:
    """The direction -H g of L-BFGS as factors of the gradient [b], of every s and of every y [b,H].

    With the pairs from the newest to the oldest, R = s_i.y_j for j <= i in time order and D its diagonal: alpha solves
    R alpha = S g, q = g - Y alpha, and beta, the part of S, solves R^T c = D alpha - gamma Y.q; the direction is
    -(gamma q + S c), gamma = s.y / y.y of the newest pair.
    """
    age = np.arange(s_g.shape[1])
    order = (pairs.astype(int)[:, None] - 1 - age) % len(age)  # [b,H]: the slot of each pair, the newest first
    image, valid = np.arange(len(pairs))[:, None], age < pairs[:, None]
    both = valid[:, :, None] & valid[:, None]
    products, squares = (
        np.where(both, table[image[:, :, None], order[:, :, None], order[:, None]], 0.0).astype(np.float64)
        for table in (sy, yy)
    )
    p, q = (np.where(valid, x[image, order], 0.0).astype(np.float64)[:, :, None] for x in (s_g, y_g))  # [b,H,1]
    diagonal = products.diagonal(axis1=1, axis2=2)
    gamma = np.where(valid[:, 0], diagonal[:, 0] / np.where(valid[:, 0], squares[:, 0, 0], 1), 1)[:, None, None]
    lower = np.tril(products) + np.eye(len(age)) * ~valid[:, None]  # s_i.y_j of newer or the same j
    alpha = np.linalg.solve(lower, p)
    right = diagonal[:, :, None] * alpha - gamma * (q - squares @ alpha)
    c = np.linalg.solve(lower.swapaxes(1, 2), right)
    of_s, of_y = np.zeros_like(c[:, :, 0]), np.zeros_like(c[:, :, 0])
    of_s[image, order], of_y[image, order] = (
        np.where(valid, -c[:, :, 0], 0),
        np.where(valid, (gamma * alpha)[:, :, 0], 0),
    )
    return -gamma[:, 0, 0], of_s, of_y
