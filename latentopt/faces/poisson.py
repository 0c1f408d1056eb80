"""The smoothest change that takes one picture's colours to another's along an outline (Poisson image editing).

Source: Perez, Gangnet and Blake 2003. A picture pasted with its own gradients differs from the picture itself by a
harmonic function, whose values on the outline are the differences there.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.linalg import cg, splu

DIRECT = 40_000  # unknowns that are solved for at once; more begin from a solution at half the size
TOLERANCE = 0.002  # levels: of the residual's root mean square
STEPS = 400  # of conjugate gradients, at most


def harmonic(inside: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`known` [h,w,C] where it is not `inside` [h,w]; inside, each value is the mean of its neighbours in the picture.

    All zero where nothing is known.
    """
    if inside.all():
        return np.zeros_like(known)
    if not inside.any():
        return known
    matrix, right = _equations(inside, known)
    found = known.astype(np.float64, copy=True)
    if inside.sum() <= DIRECT:
        found[inside] = splu(csc_array(matrix)).solve(right)
        return found
    start = _enlarged(harmonic(*_halved(inside, known)), inside.shape)[inside]  # [n,C]
    allowed = TOLERANCE * np.sqrt(len(right))
    solved = [
        cg(matrix, right[:, c], start[:, c], rtol=0.0, atol=allowed, maxiter=STEPS)[0] for c in range(right.shape[1])
    ]
    found[inside] = np.stack(solved, axis=1)
    return found


def _equations(inside: np.ndarray, known: np.ndarray) -> tuple[csc_array, np.ndarray]:
    """The Laplacian [n,n] of the unknowns, and what their known neighbours add up to, [n,C]."""
    height, width = inside.shape
    number = np.full((height, width), -1)
    number[inside] = np.arange(inside.sum())
    neighbours, right = np.zeros(inside.sum()), np.zeros((inside.sum(), known.shape[2]))
    rows, columns = [], []
    for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        here = _shifted(height, -down), _shifted(width, -across)
        there = _shifted(height, down), _shifted(width, across)
        mine, theirs = number[here], number[there]
        neighbours += np.bincount(mine[mine >= 0], minlength=len(neighbours))
        both, edge = (mine >= 0) & (theirs >= 0), (mine >= 0) & (theirs < 0)
        rows.append(mine[both])
        columns.append(theirs[both])
        right[mine[edge]] += known[there][edge]
    i, j = np.concatenate(rows), np.concatenate(columns)
    between = coo_array((np.ones(len(i)), (i, j)), shape=(len(neighbours),) * 2)
    return csc_array(diags_array(neighbours) - between), right


def _shifted(length: int, by: int) -> slice:
    """Of a line, what has a neighbour `-by` places on, as seen from there."""
    return slice(max(by, 0), length + min(by, 0))


def _halved(inside: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same at half the size: known wherever one of four places is, as the mean of those."""
    height, width = (n + n % 2 for n in inside.shape)
    pad = (height - inside.shape[0], width - inside.shape[1])
    weight = np.pad(~inside, ((0, pad[0]), (0, pad[1]))).astype(np.float64)  # beyond the picture nothing is known
    values = np.pad(known, ((0, pad[0]), (0, pad[1]), (0, 0))) * weight[..., None]
    count = _summed(weight[..., None])
    return count[..., 0] == 0, _summed(values) / np.maximum(count, 1)


def _summed(values: np.ndarray) -> np.ndarray:
    """[h,w,C] of even sides -> [h/2,w/2,C]."""
    height, width, channels = values.shape
    return values.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3))


def _enlarged(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Twice as large, linearly between the places."""
    for axis in (0, 1):
        before = np.concatenate([np.take(values, [0], axis), np.delete(values, -1, axis)], axis)
        after = np.concatenate([np.delete(values, 0, axis), np.take(values, [-1], axis)], axis)
        pair = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis + 1)
        values = pair.reshape(*values.shape[:axis], -1, *values.shape[axis + 1 :])
    return values[: shape[0], : shape[1]]
