"""Figure 1 of Zhu et al. 2020: marginal and pairwise distributions of a generator's codes in W, P and P-norm space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from latentopt.files.storage import write_atomically
from latentopt.protocols import Generator
from latentopt.statistics.pnorm import PNorm, w_to_p
from latentopt.statistics.pnorm_fit import draw_codes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES = 200_000  # the paper shows 1e6; the histograms look the same
BINS, JOINT_BINS = 120, 80
RANGE = 0.001  # share of the samples left out of view on either side


def draw_figure(generator: Generator, pnorm: PNorm, path: Path, *, samples: int = SAMPLES, seed: int = 1) -> None:
    """Write Figure 1 as a PNG (or whatever the suffix says), atomically.

    Rows: the marginals of two randomly picked variables, then their joint density; columns: W, P, P-norm. As in the
    paper the variables are picked at random (by `seed`); the curve is the Gaussian of the same mean and std, in P-norm
    N(0,1).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    w = _samples(generator, samples, seed)  # [n,C]
    spaces = {"W": w, "P": w_to_p(w, pnorm.slope), "P-norm": pnorm.whiten(w)}
    picked = np.random.default_rng(seed).permutation(w.shape[1])[:2]
    figure = Figure(figsize=(10.5, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(spaces))
    for column, (name, codes) in enumerate(spaces.items()):
        a, b = (codes[:, int(k)].numpy() for k in picked[[0, -1]])
        variable = "component" if name == "P-norm" else "variable"
        axes[0, column].set_title(f"{name} space")
        for row, (values, k) in enumerate(((a, picked[0]), (b, picked[-1]))):
            gaussian = (0.0, 1.0) if name == "P-norm" else (values.mean(), values.std())
            _marginal(axes[row, column], values, *gaussian)
            axes[row, column].set_xlabel(f"{variable} {k}")
        _joint(axes[2, column], a, b)
        axes[2, column].set(xlabel=f"{variable} {picked[0]}", ylabel=f"{variable} {picked[-1]}")
    figure.suptitle(
        f"{generator.name}: {samples:,} codes (curve: the Gaussian of the same mean and std; N(0,1) in P-norm)"
    )
    write_atomically(Path(path), lambda temporary: figure.savefig(temporary, dpi=110))


def _samples(generator: Generator, samples: int, seed: int) -> Tensor:
    """w [n,C] float64; float32 would blur the smallest components of P-norm."""
    parts: list[Tensor] = []
    missing = samples
    while missing > 0:
        parts.append(draw_codes(generator, len(parts), seed=seed)[:missing].cpu().double())
        missing -= len(parts[-1])
    return torch.cat(parts)


def _view(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (RANGE, 1 - RANGE))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _marginal(axes: Axes, values: np.ndarray, mean: float, std: float) -> None:
    x = np.linspace(*_view(values), 300)
    axes.hist(values, BINS, range=_view(values), density=True, color="#7ea6c9")
    axes.plot(x, np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)), color="#b3392f", lw=1.2)
    axes.set_yticks([])


def _joint(axes: Axes, a: np.ndarray, b: np.ndarray) -> None:
    axes.hist2d(a, b, JOINT_BINS, range=(_view(a), _view(b)), density=True, cmap="viridis")
    axes.set_box_aspect(1)
