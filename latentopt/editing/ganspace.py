"""Directions without labels (Harkonen et al. 2020, "GANSpace"): components of W, of P, or of a layer's output.

Deviation from the paper: W is measured with all samples at once (float64 moments), a layer with scikit-learn's
incremental PCA, as in the authors' code. What a component does has to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.scaling import sample_codes
from latentopt.editing.spaces import EditingSpace
from latentopt.errors import UsageError
from latentopt.protocols import Generator
from latentopt.statistics.moments import Moments, principal_components
from latentopt.types import GeneratorInputs

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

BATCH = 500
FEATURE_LIMIT = 1 << 16  # values of a layer's output; the PCA holds a few times BATCH of them


def find_ganspace(
    space: EditingSpace,
    *,
    components: int = 10,
    samples: int = 100_000,
    layer: str | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    on_progress: Callable[[int], object] | None = None,
) -> list[Direction]:
    """The leading components `pc0`, `pc1`, ...; the sign of each is arbitrary.

    space: W, or P-norm (the components of P). layer: of its output instead, such as `b8.conv1`: moves of w that fit the
    components best (the paper's regression). layers: the rows of ws that the directions move.
    Raises UsageError for W+, for more components than there are, and for fewer samples than twice the components.
    """
    generator = space.generator
    if space.kind.layered:
        raise UsageError("GANSpace finds components of w or p-norm; limit them to some layers with --layers")
    if not 1 <= components <= generator.w_dim:
        raise UsageError(f"components: 1 to {generator.w_dim}, not {components}")
    if samples < 2 * max(components, generator.w_dim):
        raise UsageError(f"{samples} samples are too few; take {2 * max(components, generator.w_dim)} or more")
    if layer is not None:
        if not space.kind.linear:
            raise UsageError("components of a layer's output are found as moves of w: --space w")
        normals, share = _of_layer(generator, layer, components, samples, seed, on_progress)
    elif (known := space.kind.components(space.pnorm)) is not None:
        normals, variance = known
        share = (variance / variance.sum()).tolist()
    else:
        normals, share = _of_w(space, samples, seed, on_progress)
    rows = None if layers is None else tuple(layers)
    about = {"samples": samples, "seed": seed} | ({} if layer is None else {"layer": layer})
    return [
        space.direction(f"pc{i}", normals[i], layers=rows, method="ganspace", about=about | {"variance": share[i]})
        for i in range(components)
    ]


def _of_w(
    space: EditingSpace, samples: int, seed: int, on_progress: Callable[[int], object] | None
) -> tuple[Tensor, list[float]]:
    """Components [C,C] of W, by falling variance, and the share of each."""
    moments = Moments(space.generator.w_dim)
    moments.update(space.coordinates(space.sample(samples, seed)))
    if on_progress is not None:
        on_progress(samples)
    vectors, std = principal_components(moments.covariance)
    return torch.from_numpy(np.ascontiguousarray(vectors)), (std**2 / (std**2).sum()).tolist()


@torch.no_grad()
def _of_layer(
    generator: Generator, layer: str, k: int, samples: int, seed: int, on_progress: Callable[[int], object] | None
) -> tuple[Tensor, list[float]]:
    """Moves of w [k,C] = argmin ||U x - (w - mean)||, x the coordinates of the layer's output (equation 4)."""
    from sklearn.decomposition import IncrementalPCA

    w = sample_codes(generator, seed, samples)
    pca, held = IncrementalPCA(k), []
    for part in w.split(max(BATCH, k)):
        if len(part) >= k:  # a shorter rest cannot be fitted
            pca.partial_fit(_output(generator, part, layer))
            held.append(part)
        if on_progress is not None:
            on_progress(len(part) // 2)
    x = np.concatenate([_coordinates(pca, generator, part, layer, on_progress) for part in held])  # [n,k]
    codes = torch.cat(held).double().cpu().numpy()
    solution = np.linalg.lstsq(x, codes - codes.mean(axis=0), rcond=None)[0]  # [k,C]
    return torch.from_numpy(solution), pca.explained_variance_ratio_.tolist()


def _coordinates(
    pca: IncrementalPCA, generator: Generator, w: Tensor, layer: str, on_progress: Callable[[int], object] | None
) -> np.ndarray:
    if on_progress is not None:
        on_progress(len(w) - len(w) // 2)
    return pca.transform(_output(generator, w, layer))


def _output(generator: Generator, w: Tensor, layer: str) -> np.ndarray:
    """A layer's output [n,c*h*w]. Raises UsageError for an unknown layer, or a large one."""
    parts = []
    for part in w.split(50):
        found = generator.features(GeneratorInputs(generator.broadcast(part)), [layer])[1]
        if layer not in found:
            known = ", ".join(generator.noise_shapes)
            raise UsageError(f"no layer {layer!r}; known: {known}, or a block, such as b8")
        parts.append(found[layer].flatten(1).double().cpu())
    if parts[0].shape[1] > FEATURE_LIMIT:
        raise UsageError(
            f"layer {layer!r} has {parts[0].shape[1]} values, more than {FEATURE_LIMIT}; name a coarser one"
        )
    return torch.cat(parts).numpy()
