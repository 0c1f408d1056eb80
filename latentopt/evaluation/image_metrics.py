"""How near a reconstruction is to its target, on the 8-bit pictures that are saved.

PSNR and MS-SSIM are those of torchmetrics, in float64, SSIM the results' own. Perceptual distances see pictures of
8-bit levels too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentopt.errors import ImageError
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.images import from_uint8, to_uint8
from latentopt.protocols import Generator
from latentopt.results.distortion import PSNR_CAP, ssim

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, from fine to coarse
WINDOW = 11


def on_levels(image: Tensor) -> Tensor:
    """[...,3,H,W] in [-1,1] as a saved picture holds it: rounded to 8 bits, clipped."""
    return from_uint8(to_uint8(image)).to(image.device)


def distortion(image: Tensor, target: Tensor) -> dict[str, Tensor]:
    """`image` against `target`, both [B,3,H,W] in [-1,1], rounded to 8 bits first. Each value [B], float64.

    mse, rmse: of levels as fractions of 255; psnr: dB, at most PSNR_CAP; ssim: Wang et al. 2004, window of 11, left out
    where a side is shorter than 6 pixels; ms_ssim: see there, left out below 11.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = _fractions(image), _fractions(target)
    mse = (x - y).square().mean(dim=(1, 2, 3))
    psnr = peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))
    values = {"mse": mse, "rmse": mse.sqrt(), "psnr": psnr.clamp(max=PSNR_CAP)}
    side = min(x.shape[-2:])
    if side > WINDOW // 2:
        values["ssim"] = ssim(x, y)
    if side >= WINDOW:
        values["ms_ssim"] = ms_ssim(image, target).double()
    return values


class PerceptualDistance:
    """Perceptual distance of any two pictures.

    net: as for the term `perceptual`. `name` says network, hash of its weights, and size.
    """

    def __init__(
        self, generator: Generator, net: str = "auto", *, size: int | None = None, weights: str | None = None
    ) -> None:
        self.features = PerceptualFeatures(generator, net, size, weights)
        self.name = f"{self.features.network}, pictures of at most {self.features.size} pixels"

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """[B] of pictures [B,3,H,W] in [-1,1]; exactly 0 for equal ones."""
        return self.features.distance(first, second)


def identity(embed: Callable[[Tensor], Tensor], image: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity [B] of unit embeddings [B,E]: 1 for the same person."""
    return (embed(image).cpu().double() * embed(target).cpu().double()).sum(dim=1)


def _fractions(image: Tensor) -> Tensor:
    """8-bit levels as fractions of 255, float64 on the CPU."""
    return torch.from_numpy(to_uint8(image)).movedim(-1, -3).double() / 255


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
    x, y = _fractions(image), _fractions(target)
    return multiscale_structural_similarity_index_measure(
        x,
        y,
        data_range=1.0,
        kernel_size=WINDOW,
        betas=tuple(beta / sum(betas) for beta in betas),
        normalize="relu",
        reduction="none",
    ).float()
