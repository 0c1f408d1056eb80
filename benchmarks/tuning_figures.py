"""The figures of `tuning.py`: the WRanGAN paper's 1, 2, 3 and 8 on the bundled domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tuning_edits import EDITS
from tuning_measures import layer_of
from tuning_strategies import PTI
from tunings import Bench, Result

from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.statistics.sigma import Sigma


def draw_edits(bench: Bench, results: dict[str, Result], row: int, path: Path) -> None:
    """Figure 1: a strategy a row; target, reconstruction and the edits of one image."""
    rows, labels = [], []
    for name, result in results.items():
        rows.append([bench.targets[row].cpu(), result.pictures["image"][row], *result.pictures["edits"][row]])
        figures = f"mse {result.values['mse'][row]:.5f}, frechet {result.values['frechet'][row]:.3f}"
        labels.append(f"{name}: {figures}")
    columns = ["target", "reconstruction", *(f"edit {i + 1}" for i in range(EDITS))]
    contact_sheet(rows, path, columns=columns, labels=labels)


def draw_corruption(results: dict[str, Result], names: Sequence[str], rows: slice, path: Path) -> None:
    """Figure 2: how each image's corruption differs from PTI's; the mean as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("frechet", "kernel"), strict=True):
        pti = torch.tensor(results[PTI].values[measure][rows])
        gaps = torch.stack([torch.tensor(results[name].values[measure][rows]) - pti for name in names])
        bins = torch.linspace(gaps.min(), gaps.max(), 31).numpy()
        for i, (name, gap) in enumerate(zip(names, gaps, strict=True)):
            mean = gap.mean().item()
            axes.hist(gap.numpy(), bins, alpha=0.5, color=f"C{i}", label=f"{name}: mean {mean:.3g}")
            axes.axvline(mean, color=f"C{i}")
        axes.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
        axes.set_title(f"corruption ({measure}) less PTI's, images", fontsize=9)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def draw_layers(curves: dict[int, dict[float, float]], path: Path) -> None:
    """Figure 3: {N: {coefficient: mse}}."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for n, points in curves.items():
        axes.plot(list(points), list(points.values()), marker="o", label=f"N = {n}")
    axes.set(xscale="log", yscale="log", xlabel="regularisation (l2)", ylabel="mse, [0,1] pictures")
    axes.set_title("simple weight tune of the last N convolutions", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def draw_sigma(sigmas: dict[str, Sigma], path: Path) -> None:
    """Figure 8: the distribution of sigma in each layer, one panel an origin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(sigmas), 4), layout="constrained")
    for axes, (origin, sigma) in zip(figure.subplots(1, len(sigmas), squeeze=False)[0], sigmas.items(), strict=True):
        for i, (name, values) in enumerate(sigma.tensors.items()):
            axes.hist(
                values.flatten().numpy(), bins=80, histtype="step", density=True, color=f"C{i}", label=layer_of(name)
            )
        axes.set_title(f"{origin} sigma, units of the stored weights", fontsize=9)
        axes.tick_params(labelleft=False)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)
