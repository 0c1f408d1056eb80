"""JPEG: the compression as a differentiable map, and the true codec.

Source: ITU-T T.81 (baseline; the tables of its annex K, scaled as libjpeg does); rounding with the cubic of Shin and
Song 2017, "JPEG-resistant Adversarial Images". B images, C channels; planes of levels 0..255.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from latentopt.errors import UsageError
from latentopt.pictures.images import from_uint8, to_pil
from latentopt.protocols import Operator, Source

LUMA_TABLE = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
CHROMA_TABLE = """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99
"""
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


class Jpeg(Operator):
    """The image [B,C,H,W] as it comes out of a JPEG file of that `quality`, colours at half the resolution (4:2:0).

    Levels beyond 0..255 are clipped; coefficients are rounded so that a gradient is left; the last rounding to whole
    levels is left out. `simulate` writes and reads a true file. The opacity of images that have one is kept.
    """

    examples = ({}, {"quality": 12})

    def __init__(self, source: Source, *, quality: int = 50) -> None:
        if not 1 <= quality <= 100:
            raise UsageError(f"jpeg: quality is a number from 1 to 100, not {quality}")
        self.quality = quality
        self.luma, self.chroma = scaled_table(LUMA_TABLE, quality), scaled_table(CHROMA_TABLE, quality)

    def __call__(self, image: Tensor) -> Tensor:
        levels = (127.5 * (image + 1)).clamp(0, 255)
        if image.shape[1] == 1:
            out = _compressed(levels, self.luma)
        else:
            out = _in_colour(levels[:, :3], self.luma, self.chroma)
        seen = out.clamp(0, 255) / 127.5 - 1
        return torch.cat([seen, image[:, 3:]], dim=1) if image.shape[1] == 4 else seen

    def simulate(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        colours = image[:, :3].detach()
        seen = torch.stack([self._through_file(one) for one in colours]).to(image)
        return torch.cat([seen, image[:, 3:]], dim=1)

    def _through_file(self, image: Tensor) -> Tensor:
        with io.BytesIO() as stream:
            to_pil(image).save(stream, "JPEG", quality=self.quality, subsampling="4:2:0")
            levels = np.asarray(Image.open(stream))
        return from_uint8(levels if levels.ndim == 3 else levels[..., None])


def scaled_table(text: str, quality: int) -> Tensor:
    """The steps [8,8] of a table at that quality."""
    base = torch.tensor([float(x) for x in text.split()], dtype=torch.float64).reshape(8, 8)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((base * scale + 50) / 100).floor().clamp(1, 255)


def _in_colour(levels: Tensor, luma: Tensor, chroma: Tensor) -> Tensor:
    """[B,3,H,W] through brightness and colour differences, these at half the size."""
    to_ycc = levels.new_tensor(TO_YCC)
    y, *differences = torch.einsum("ij,bjhw->bihw", to_ycc, levels).split(1, dim=1)
    height, width = levels.shape[2:]
    small = avg_pool2d(_padded(torch.cat(differences, dim=1), 2), 2)
    small = _compressed(small + 128, chroma) - 128
    large = interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.einsum("ij,bjhw->bihw", to_ycc.inverse(), torch.cat([_compressed(y, luma), large], dim=1))


def _compressed(plane: Tensor, table: Tensor) -> Tensor:
    """Planes [B,C,h,w], each block of 8x8 in whole steps of `table` for every frequency."""
    height, width = plane.shape[2:]
    blocks = _padded(plane - 128, 8).unfold(2, 8, 8).unfold(3, 8, 8)  # [B,C,n,m,8,8]
    cosines, steps = _cosines().to(plane), table.to(plane)
    frequencies = _rounded(cosines @ blocks @ cosines.T / steps) * steps
    blocks = cosines.T @ frequencies @ cosines
    whole = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # [B,C,8n,8m]
    return whole[..., :height, :width] + 128


def _rounded(x: Tensor) -> Tensor:
    """The nearest whole number and the cube of what is left: near it, and with a gradient."""
    nearest = x.detach().round()
    return nearest + (x - nearest) ** 3


def _padded(plane: Tensor, multiple: int) -> Tensor:
    """With sides that are multiples of a number; the last pixels are repeated."""
    height, width = plane.shape[2:]
    return pad(plane, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _cosines() -> Tensor:
    """The discrete cosine transform of 8 values, orthonormal: [frequency, place]."""
    k, n = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    matrix = (math.pi * (2 * n + 1) * k / 16).cos() / 2
    matrix[0] /= math.sqrt(2)
    return matrix
