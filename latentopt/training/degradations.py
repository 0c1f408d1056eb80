"""Mild degradations of training images, so that a network also reads pictures that are a little soft or noisy."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

MAX_BLUR = 1.5  # standard deviation, pixels
MAX_NOISE = 0.08  # standard deviation, in units of the [-1,1] range


def degrade(images: Tensor, rng: torch.Generator, share: float) -> tuple[Tensor, Tensor]:
    """Blur, colour and noise, each on a random `share` of the images [B,3,H,W] in [-1,1].

    Returns:
        images [B,3,H,W]; the strengths [B,2] of blur (one for the batch, 0 where not applied) and noise, in [0,1].
    """
    batch = len(images)

    def chosen() -> Tensor:
        return (torch.rand(batch, generator=rng) < share).float().to(images)  # [B]

    def column(x: Tensor) -> Tensor:
        return x[:, None, None, None]

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng).to(images)

    blur = chosen() * float(torch.rand([], generator=rng))
    sigma = max(float(blur.max()) * MAX_BLUR, 0.05)
    images = torch.where(column(blur) > 0, gaussian_blur(images, [9, 9], [sigma, sigma]), images)
    colour = column(chosen())
    images = images * (1 + colour * 0.06 * (random(batch, 3, 1, 1) - 0.5))
    images = images + colour * 0.06 * (random(batch, 3, 1, 1) - 0.5)
    noise = chosen() * random(batch)
    images = images + column(noise) * MAX_NOISE * torch.randn(images.shape, generator=rng).to(images)
    return images, torch.stack([blur, noise], dim=1)
