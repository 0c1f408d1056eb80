"""What each step changed: in the picture (ReStyle, Figures 6, 7 and 14) and in the groups of latents (Figure 15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentopt.pictures.contact_sheet import contact_sheet

GROUPS = {"coarse": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, None)}  # rows: 4-8, 16-32, 64 pixels and up
COLORMAP = "turbo"  # blue: least, red: most


def image_change(before: Tensor, after: Tensor) -> Tensor:
    """Mean over channels of the squared difference, [B,3,H,W] twice -> [B,H,W]."""
    return (after.float() - before.float()).square().mean(dim=1)


def latent_change(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Mean absolute change of each group of rows that the code has, ws [B,L,C] twice -> [B] each.

    The paper's equations 5 and 6 take the L2 norm of the squared difference averaged over all images; a mean absolute
    difference of each image stays in the unit of w, and can be averaged afterwards.
    """
    change = (after - before).abs()
    found = {name: change[:, rows] for name, rows in GROUPS.items()}
    return {name: rows.mean(dim=(1, 2)) for name, rows in found.items() if rows.shape[1]}


def heat_maps(changes: Tensor, together: bool = True) -> list[Tensor]:
    """Pictures [3,H,W] in [-1,1] of changes [S,H,W]: scaled to the largest of all steps, or of each step by itself."""
    from matplotlib import colormaps

    peak = changes.amax() if together else changes.amax(dim=(1, 2), keepdim=True)
    levels = (changes / peak.clamp_min(1e-12)).cpu().numpy()  # [S,H,W] in [0,1]
    colours = colormaps[COLORMAP](levels)[..., :3].astype(np.float32)
    return list(torch.from_numpy(colours).movedim(-1, 1) * 2 - 1)


@dataclass
class MeanChange:
    """The change of each step averaged over images."""

    total: Tensor | None = None  # [S,H,W]
    count: int = 0

    def add(self, changes: Tensor) -> None:
        """changes [B,S,H,W]."""
        found = changes.sum(dim=0).cpu()
        self.total = found if self.total is None else self.total + found
        self.count += len(changes)

    def draw(self, path: Path) -> None:
        """Write a sheet: each step scaled by itself (Figure 6), and all together (Figure 7)."""
        if self.total is None:
            raise ValueError("nothing was added")
        mean: Tensor = self.total / self.count
        headings = _headings(len(mean))
        rows = [heat_maps(mean, together=False), heat_maps(mean)]
        contact_sheet(rows, path, columns=headings, labels=["where each step changes most", "all on one scale"])


def _headings(steps: int) -> Sequence[str]:
    return [f"step {step}" for step in range(1, steps + 1)]
