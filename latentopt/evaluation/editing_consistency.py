"""Latent editing consistency (Tov et al. 2021, e4e, equation 8) and how far latents are from W (section 8.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.evaluation.subject import Edit
from latentopt.protocols import Generator
from latentopt.statistics.pnorm import PNorm
from latentopt.types import GeneratorInputs

Invert = Callable[[Tensor, Sequence[int]], Tensor]
"""E of equation 8: pictures [M,3,H,W] and which images they are edits of -> latents [M,L,C] that an inversion finds."""

TRIM_BATCH, TRIM = 8, 0.01  # of e4e's released code


def editing_distances(
    generator: Generator,
    inputs: Sequence[GeneratorInputs],
    edit: Edit,
    strength: float,
    invert: Invert,
    noise_mode: str = "const",
) -> Tensor:
    """||E(x) - f^-1(E(G(f(E(x)))))||_2 of each image [M], over all L x C entries of ws: equation 8 before the mean.

    inputs: E(x), one image's each. G draws with the image's own noise and weights; the pictures are given to `invert` as
    they are, neither clamped nor rounded. f^-1 is the edit with the opposite strength.
    """
    with torch.no_grad():
        pictures = [generator.synthesis(edit.edit(one, strength), noise_mode).float() for one in inputs]
    again = invert(torch.cat(pictures), range(len(inputs)))  # [M,L,C]
    found = []
    for one, ws in zip(inputs, again, strict=True):
        back = edit.edit(one.with_latents(ws[None].to(one.ws)), -strength)
        found.append((one.ws.cpu().double() - back.ws.cpu().double()).norm())  # Apple's GPUs have no float64
    return torch.stack(found)


def lec(distances: Tensor) -> float:
    """Equation 8: the mean of `editing_distance` over images [N]."""
    return distances.double().mean().item()


def trimmed_lec(distances: Tensor, batch: int = TRIM_BATCH) -> float:
    """As e4e's released code has it: means of batches of 8 images, without those outside their 1st to 99th percentile.

    The percentiles are interpolated, so that of a few batches the lowest and the highest are always dropped; of one or two
    batches nothing is.
    """
    means = torch.stack([part.mean() for part in distances.double().split(batch)])
    low, high = torch.quantile(means, torch.tensor([TRIM, 1 - TRIM], dtype=torch.float64))
    kept = means[(means >= low) & (means <= high)]
    return (kept if len(kept) else means).mean().item()


def latent_variation(ws: Tensor) -> Tensor:
    """||w - mean over rows||_2 of each image, ws [B,L,C] -> [B]: 0 in W (e4e, section 8.2)."""
    return (ws - ws.mean(dim=1, keepdim=True)).cpu().double().flatten(1).norm(dim=1)


def pnorm_radius(ws: Tensor, pnorm: PNorm) -> Tensor:
    """Root mean square [B] of the P-norm+ codes: about 1 for the generator's own samples, more for latents far off."""
    return pnorm.whiten(ws.cpu().double()).square().mean(dim=(1, 2)).sqrt()


def coordinate(inputs: GeneratorInputs, edit: Edit, centre: Tensor) -> Tensor:
    """Where ws [B,L,C] lie along an edit, in its strengths from `centre` [C] (w_avg): [B].

    The projection on what strength 1 adds, over the rows that it moves; in P where the edit is straight there.
    """
    straight = _straight(edit)
    here = straight(inputs.ws.cpu().double())
    step = straight(edit.edit(inputs, 1.0).ws.cpu().double()) - here  # [B,L,C]
    away = here - straight(centre.cpu().double())
    return (away * step).sum(dim=(1, 2)) / step.square().sum(dim=(1, 2)).clamp(min=1e-30)


def _straight(edit: Edit) -> Callable[[Tensor], Tensor]:
    """The map to the space in which the edit adds a constant."""
    return edit.coordinates.straight if isinstance(edit, Direction) else lambda w: w


def placed(inputs: GeneratorInputs, edit: Edit, strength: float, centre: Tensor) -> Tensor:
    """ws [1,L,C] of one image with its coordinate along `edit` set to `strength`, as GANSpace edits and II2S's Table 4."""
    return edit.edit(inputs, strength - coordinate(inputs, edit, centre).item()).ws
