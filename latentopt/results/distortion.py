"""How near a reconstruction is to its target, on the 8-bit pictures that are saved: MSE, PSNR, SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from latentopt.pictures.images import to_uint8

PSNR_CAP = 100.0  # dB; two equal pictures have no finite PSNR
RADIUS, SIGMA = 5, 1.5  # of SSIM's Gaussian window, pixels
K1, K2 = 0.01, 0.03


def metrics(image: Tensor, target: Tensor) -> dict[str, Tensor]:
    """`image` against `target`, both [B,3,H,W] in [-1,1], rounded to 8 bits first. Each value [B], float32, finite.

    mse: of levels as fractions of 255; psnr: dB, at most PSNR_CAP; ssim: in [-1,1], see `ssim`, left out where a side
    is too small for its window. Raises ImageError where a value is not a number.
    """
    x, y = (torch.from_numpy(to_uint8(images)).movedim(-1, -3).double() / 255 for images in (image, target))
    mse = (x - y).square().mean(dim=(1, 2, 3))  # [B]
    result = {"mse": mse, "psnr": (-10 * mse.log10()).clamp(max=PSNR_CAP)}
    if min(x.shape[-2:]) > RADIUS:
        result["ssim"] = ssim(x, y)
    return {name: value.float() for name, value in result.items()}


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of [B,C,H,W] in [0,1] -> [B]; mean over channels and pixels.

    Gaussian window of 11 pixels, sigma 1.5, edges reflected. The figures are those of torchmetrics, which takes ten
    times as long, since it applies the window to both axes at once. Meant for float64: in float32 the variances
    cancel where pictures are bright, and two equal white ones would get 0.9992.
    """
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Gaussian window, one axis after the other: 22 products a pixel instead of 121, without a slow float64 conv2d."""
    window = (-(torch.arange(-RADIUS, RADIUS + 1.0).double() ** 2) / (2 * SIGMA**2)).softmax(dim=0).tolist()
    height, width = x.shape[-2:]
    x = pad(x, (RADIUS,) * 4, mode="reflect")
    x = sum(weight * x.narrow(-1, i, width) for i, weight in enumerate(window))
    return sum(weight * x.narrow(-2, i, height) for i, weight in enumerate(window))
