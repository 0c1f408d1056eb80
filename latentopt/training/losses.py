"""The losses of adversarial training. Source: Karras et al. 2020, sections 3.1 (lazy regularisation) and 3.2.

Source of the relativistic loss, with penalties on both sides: Huang et al. 2024 (R3GAN). Of the hinge loss on features:
Sauer et al. 2021 (Projected GANs), as in its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of logits [B,1]: `-log D(real) - log(1 - D(fake))`, the batch mean."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss of logits [B,1]: `-log D(fake)`, the batch mean."""
    return F.softplus(-fake).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of `real` [B,3,H,W] and `|d logits / d real|^2`, the batch mean (Mescheder et al. 2018)."""
    real = real.detach().requires_grad_(True)
    logits = discriminator(real)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return logits, gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(image: Tensor, ws: Tensor) -> Tensor:
    """`|J_w^T y|` of each image for one random y: [B,3,H,W], [B,L,C] -> [B] (equation 4, averaged over layers)."""
    y = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * y).sum(), ws, create_graph=True)  # [B,L,C]
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic pairing loss of logits [B,1]: `-log sigmoid(D(real) - D(fake))`, the batch mean."""
    return F.softplus(fake - real).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The generator's side of it: `-log sigmoid(D(fake) - D(real))`, the batch mean."""
    return F.softplus(real - fake).mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """`max(0, 1 - D(real)) + max(0, 1 + D(fake))`, the mean over logits [B,K]."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """`-D(fake)`, the mean over logits [B,K]."""
    return -fake.mean()


class Adversarial(NamedTuple):
    """Both sides of a loss.

    discriminator   of the logits of real and of generated images
    generator       of a function that gives the logits of real images, which is called if they are needed, and those of
                    generated ones
    penalises_fake  whether the penalty of gradients holds on generated images too (R2)
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Callable[[], Tensor], Tensor], Tensor]
    penalises_fake: bool


ADVERSARIAL = {
    "logistic": Adversarial(discriminator_loss, lambda real, fake: generator_loss(fake), False),
    "relativistic": Adversarial(
        relativistic_discriminator_loss, lambda real, fake: relativistic_generator_loss(real(), fake), True
    ),
}
