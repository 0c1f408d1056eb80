"""Directions from the weights alone (Shen and Zhou 2021, "Closed-Form Factorization of Latent Semantics in GANs").

The directions of w that change the styles most: eigenvectors of A^T A (equation 4), A the affine weights of the layers,
each row at length 1 as in the authors' code. What a direction does has to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentopt.editing.direction import Direction
from latentopt.editing.spaces import EditingSpace
from latentopt.errors import UsageError
from latentopt.protocols import Generator


def find_sefa(space: EditingSpace, *, components: int = 10, layers: Sequence[int] | None = None) -> list[Direction]:
    """The leading directions `sefa0`, `sefa1`, ...; the sign of each is arbitrary.

    layers: rows of ws: the layers that they drive are factorised, and the directions move these rows alone (all by
    default). Raises UsageError for another space than W, and for rows or components that are not there.
    """
    generator = space.generator
    if space.kind.layered or not space.kind.linear:
        raise UsageError("SeFa factorises the styles' weights, which are linear in w: --space w")
    if not 1 <= components <= generator.w_dim:
        raise UsageError(f"components: 1 to {generator.w_dim}, not {components}")
    eigenvalues, vectors = factorize(style_weights(generator, layers))
    rows = None if layers is None else tuple(layers)
    share = (eigenvalues / eigenvalues.sum()).tolist()
    return [
        space.direction(f"sefa{i}", vectors[i], layers=rows, method="sefa", about={"eigenvalue_share": share[i]})
        for i in range(components)
    ]


def style_weights(generator: Generator, layers: Sequence[int] | None = None) -> Tensor:
    """The affine weights [channels,C] of the convolutions that `layers` drive, and of what a row drives alone.

    In StyleGAN2 the last row drives a toRGB alone; the other toRGBs are left out. Raises UsageError where no layer is
    driven by these rows.
    """
    rows = {row for layer, row in generator.layers.items() if layer in generator.convolutions}
    chosen = []
    for layer, row in generator.layers.items():
        if (layer in generator.convolutions or row not in rows) and (layers is None or row in layers):
            chosen.append(generator.affine(layer).detach().double().cpu())
    if not chosen:
        raise UsageError(
            f"no style is driven by the rows {layers}; this generator has rows 0 to {generator.num_ws - 1}"
        )
    return torch.cat(chosen)


def factorize(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [C], falling, and eigenvectors [C,C] (rows) of A^T A, rows of A [n,C] at length 1."""
    a = normalize(weights, dim=1)
    values, vectors = torch.linalg.eigh(a.T @ a)
    return values.flip(0), vectors.flip(1).T
