"""Pictures of any size and aspect, made to fit a generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.pictures.decoding import Picture

Fit = Literal["crop", "pad", "stretch"]
LEAST_OPACITY = 1 / 255


def fitted(image: Image.Image, resolution: tuple[int, int], fit: Fit, level: int) -> Image.Image:
    """One channel (mode L or F), brought to `resolution` (H,W); `level` fills the padding.

    `PIL.ImageOps.fit` and `pad` give other pixels: one crops between pixels, the other rounds odd margins otherwise.
    Raises UsageError for another word than `fit` may be.
    """
    (height, width), (w, h) = resolution, image.size
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    if fit == "crop":
        crop_w, crop_h = min(w, max(1, round(h * width / height))), min(h, max(1, round(w * height / width)))
        left, top = (w - crop_w) // 2, (h - crop_h) // 2
        cropped = image.crop((left, top, left + crop_w, top + crop_h))
        return cropped.resize((width, height), Image.Resampling.LANCZOS)
    if fit == "pad":
        scale = min(width / w, height / h)
        inner_w, inner_h = max(1, round(w * scale)), max(1, round(h * scale))
        canvas = Image.new(image.mode, (width, height), level)
        inner = image.resize((inner_w, inner_h), Image.Resampling.LANCZOS)
        canvas.paste(inner, ((width - inner_w) // 2, (height - inner_h) // 2))
        return canvas
    raise UsageError(f"fit={fit!r}: one of crop, pad, stretch")


def fitted_pixels(picture: Picture, resolution: tuple[int, int], fit: Fit, background: Sequence[int]) -> np.ndarray:
    """Levels [3,H,W] of the colours, float32, padded with `background`.

    What is transparent does not colour its neighbours: colours are weighted by their opacity where it differs.
    """
    pairs = list(zip(picture.channels, background, strict=True))
    plain = np.stack([np.asarray(fitted(channel, resolution, fit, level), np.float32) for channel, level in pairs])
    if picture.alpha is None or picture.alpha.size[::-1] == resolution:
        return plain
    opacity = np.asarray(picture.alpha, np.float32) / 255
    weight = np.asarray(fitted(Image.fromarray(opacity), resolution, fit, 1), np.float32)  # [H,W]
    weighted = [Image.fromarray(np.asarray(channel, np.float32) * opacity) for channel in picture.channels]
    sums = np.stack(
        [
            np.asarray(fitted(x, resolution, fit, level), np.float32)
            for x, level in zip(weighted, background, strict=True)
        ]
    )
    return np.where(weight > LEAST_OPACITY, sums / np.maximum(weight, LEAST_OPACITY), plain)


def fitted_mask(
    alpha: Image.Image | None, size: tuple[int, int], resolution: tuple[int, int], fit: Fit
) -> Tensor | None:
    """[1,H,W] in [0,1] of a picture of `size` (H,W) and its transparency: 0 in the padding. None where all counts."""
    if alpha is None and fit != "pad":
        return None
    alpha = alpha or Image.new("L", size[::-1], 255)
    mask = torch.from_numpy(np.asarray(fitted(alpha, resolution, fit, 0), np.float32) / 255)[None]
    return None if bool((mask == 1).all()) else mask


def fitted_opacity(picture: Picture, resolution: tuple[int, int], fit: Fit) -> np.ndarray:
    """Levels [1,H,W] of the opacity, float32: 0 in the padding."""
    alpha = picture.alpha or Image.new("L", picture.size[::-1], 255)
    return np.asarray(fitted(alpha, resolution, fit, 0), np.float32)[None]


def fit_notes(size: tuple[int, int], resolution: tuple[int, int], fit: Fit) -> Iterator[str]:
    """What fitting a picture of `size` (H,W) did to it, in words."""
    (h, w), (height, width) = size, resolution
    if h < height and w < width:
        yield f"enlarged from {w}x{h} to {width}x{height}"
    if h * width != w * height:
        done = {"crop": "cropped to the centre", "pad": "padded", "stretch": "stretched"}[fit]
        yield f"{w}x{h} {done} for the aspect {width}:{height}"
