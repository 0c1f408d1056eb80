"""An aligned picture back in its photograph: warped, colours matched, the seam blended. All else stays as it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.faces.cutting import resample
from latentopt.faces.poisson import harmonic
from latentopt.faces.quads import check_quad, into_quad, projected, side_of
from latentopt.pictures.channels import in_colour

Part = Literal["crop", "face"]
Blend = Literal["feather", "poisson"]
Colour = Literal["match", "keep"]

CENTRE, RADII = (0.5, 0.57), (0.33, 0.41)  # of the ellipse around the face in a picture aligned as FFHQ's
LEAST_FEATHER = 0.02  # for Poisson blending, whose outline lies in the middle of the feather
GAIN = (0.5, 2.0)  # bounds of what the contrast is multiplied with
FEWEST = 16.0  # pixels in the seam, below which no colours are matched


@dataclass(frozen=True)
class Seam:
    """How an aligned picture is put back.

    part: "crop" is all of the picture, "face" an ellipse around the face. feather: how far the transition reaches
    inwards, in sides of the picture. blend: "feather" mixes both there; "poisson" keeps the picture's gradients and
    moves its colours smoothly to the photograph's along the middle of that. colour: "match" gives the picture the mean
    and the contrast that the photograph has in the transition, channel by channel.
    """

    part: Part = "crop"
    feather: float = 0.1
    blend: Blend = "feather"
    colour: Colour = "match"

    def __post_init__(self) -> None:
        for value, known in ((self.part, Part), (self.blend, Blend), (self.colour, Colour)):
            if value not in get_args(known):
                raise UsageError(f"{value!r}: one of {', '.join(get_args(known))}")
        if not 0 <= self.feather <= 0.5:
            raise UsageError(f"a feather of {self.feather:g} sides; from 0 to 0.5")


def paste_face(photo: np.ndarray, image: Tensor, quad: Tensor, seam: Seam) -> tuple[np.ndarray, np.ndarray]:
    """A photograph, levels uint8 [H,W,3], with an aligned picture [C,h,w] in [-1,1] at its `quad` [4,2]; and the mask
    [H,W] in [0,1] of what may have changed: where it is 0, every level is as it was.

    Raises UsageError for a quad outside the photograph.
    """
    check_quad(quad, photo.shape[:2])
    window = _window(quad, photo.shape[:2])
    there = photo[window].astype(np.float32)
    into = into_quad(quad)
    shape = there.shape[:2]
    out_of = torch.linalg.inv(into) @ _shift(window[1].start, window[0].start)  # from the window into the unit square
    placed, opacity = _placed(image, out_of, shape, side_of(quad))
    mask = seam_mask(out_of, shape, seam) * opacity
    if seam.colour == "match":
        placed = matched(placed, there, mask)
    if seam.blend == "poisson":
        mask = (mask >= 0.5).astype(np.float32)
        placed = placed + harmonic(mask > 0, there - placed)
    mixed = there + mask[..., None] * (placed - there)
    pasted, whole = photo.copy(), np.zeros(photo.shape[:2], np.float32)
    changed = mask > 0
    pasted[window][changed] = np.clip(np.round(mixed[changed]), 0, 255).astype(np.uint8)
    whole[window] = mask
    return pasted, whole


def _window(quad: Tensor, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of the photograph that the quad touches."""
    low, high = quad.amin(dim=0).tolist(), quad.amax(dim=0).tolist()
    rows, columns = (slice(max(math.floor(low[i]), 0), min(math.ceil(high[i]), size[1 - i])) for i in (1, 0))
    return rows, columns


def _shift(x: float, y: float) -> Tensor:
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], dtype=torch.float64)


def _placed(
    image: Tensor, out_of: Tensor, shape: tuple[int, int], side: float
) -> tuple[np.ndarray, np.ndarray | float]:
    """The picture where it belongs in the window: levels [h,w,3], and its opacity [h,w]."""
    levels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).numpy()  # [C,h,w]
    colours = [_warped(plane, out_of, shape, side) for plane in in_colour(torch.from_numpy(levels)).numpy()]
    opacity = _warped(levels[3], out_of, shape, side) / 255 if len(levels) == 4 else 1.0
    return np.stack(colours, axis=-1), np.clip(opacity, 0, 1)


def _warped(plane: np.ndarray, out_of: Tensor, shape: tuple[int, int], side: float) -> np.ndarray:
    """One channel [h,w], reduced first where the photograph has fewer pixels there."""
    channel = Image.fromarray(np.ascontiguousarray(plane))
    if (fits := math.ceil(side)) < min(channel.size):
        channel = channel.resize((fits, fits), Image.Resampling.LANCZOS)
    scale = torch.diag(torch.tensor([channel.width, channel.height, 1.0], dtype=torch.float64))
    return np.asarray(resample(channel, scale @ out_of, shape))


def seam_mask(out_of: Tensor, shape: tuple[int, int], seam: Seam) -> np.ndarray:
    """How much of the aligned picture shows in the pixels of a window (H,W): [H,W] in [0,1], 0 on its outline.

    out_of: the homography from the window into the unit square of the picture.
    """
    rows, columns = (torch.arange(n).double() + 0.5 for n in shape)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    u, v = projected(out_of, torch.stack([x, y], dim=-1)).unbind(dim=-1)
    if seam.part == "face":
        far = torch.hypot((u - CENTRE[0]) / RADII[0], (v - CENTRE[1]) / RADII[1])
        depth = (1 - far) * min(RADII)  # about the distance from the outline
    else:
        depth = torch.minimum(torch.minimum(u, 1 - u), torch.minimum(v, 1 - v))
    feather = max(seam.feather, LEAST_FEATHER) if seam.blend == "poisson" else seam.feather
    t = (depth / feather).clamp(0, 1) if feather else (depth > 0).double()
    return (t * t * (3 - 2 * t)).float().numpy()


def matched(placed: np.ndarray, there: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Levels [h,w,3] with the mean and the contrast that the photograph has where the mask [h,w] is between 0 and 1."""
    weight = 4 * mask * (1 - mask)
    if (total := weight.sum()) < FEWEST:
        return placed
    ours, theirs = ((x * weight[..., None]).sum(axis=(0, 1)) / total for x in (placed, there))  # [3]
    spread, wanted = (
        np.sqrt((((x - mean) ** 2) * weight[..., None]).sum(axis=(0, 1)) / total)
        for x, mean in ((placed, ours), (there, theirs))
    )
    return (placed - ours) * np.clip(wanted / np.maximum(spread, 1), *GAIN) + theirs
