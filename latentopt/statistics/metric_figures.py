"""What a metric says of its generator, in words."""

from __future__ import annotations

from pathlib import Path

import torch

from latentopt.protocols import Generator
from latentopt.statistics.metric import LEFT, Metric


def figures(metric: Metric, generator: Generator, out: Path) -> dict[str, str]:
    """Lines by their heading: what was measured, and where the picture changes most."""
    ws = metric.blocks["ws"].double()  # [L,C,C]
    values = torch.linalg.eigvalsh(ws).flip(1)  # [L,C], falling
    traces = values.sum(dim=1)
    half = int((values.sum(dim=0).cumsum(0) < 0.9 * traces.sum()).sum()) + 1
    lines = {
        "generator": f"{generator.name} ({generator.fingerprint})",
        "distance": f"{metric.distance}, and pixels" if metric.distance != "pixels" else "pixels",
        "pictures": f"{metric.n:,}, seed {metric.seed}",
        "latents": f"{len(ws)} blocks of {ws.shape[1]} x {ws.shape[1]}; share of the change by row of ws: "
        + " ".join(f"{share:.0%}" for share in (traces / traces.sum()).tolist()),
        "directions": f"{half} of {ws.shape[1]} a row hold 90 % of it",
        "metric": str(out),
    }
    if metric.weights:
        strongest = max(metric.weights, key=lambda name: metric.blocks[LEFT + name].trace().item())
        lines["weights"] = f"{len(metric.weights)} measured; the picture depends most on {strongest}"
    return lines
