"""Multi-scale structural similarity, with as many scales as pictures of the size allow."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.errors import ImageError
from latentopt.images import to_uint8

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, from fine to coarse
WINDOW = 11


def ms_ssim_scales(side: int) -> int:
    """How many of the five scales torchmetrics' window of 11 pixels allows for a shorter side: 5 from 176, 3 at 64.

    It asks for side // (scales - 1)^2 > 10, and the coarsest picture must hold the window. Raises ImageError below 11.
    """
    sizes = {n: min(side // max(1, n - 1) ** 2, side >> (n - 1)) for n in range(1, len(BETAS) + 1)}
    fitting = [n for n, size in sizes.items() if size >= WINDOW]
    if not fitting:
        raise ImageError(f"MS-SSIM needs pictures of at least {WINDOW} pixels, not {side}")
    return fitting[-1]


def ms_ssim(image: Tensor, target: Tensor) -> Tensor:
    """MS-SSIM (Wang et al. 2003) of [B,3,H,W] in [-1,1], rounded to 8 bits first, by torchmetrics: [B] in [0,1].

    Small pictures have fewer scales (`ms_ssim_scales`), whose exponents are scaled to sum to 1 as all five do. Negative
    contrasts count as 0. Figures of different sizes do not compare. Raises ImageError for pictures below 11 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    betas = BETAS[: ms_ssim_scales(min(target.shape[-2:]))]
    x, y = (torch.from_numpy(to_uint8(images)).movedim(-1, -3).double() / 255 for images in (image, target))
    return multiscale_structural_similarity_index_measure(
        x,
        y,
        data_range=1.0,
        kernel_size=WINDOW,
        betas=tuple(beta / sum(betas) for beta in betas),
        normalize="relu",
        reduction="none",
    ).float()
