"""The input of StyleGAN3: Fourier features on an infinite plane, of which w and a transform say what part is drawn.

Source: Karras et al. 2021, sections 3.1 and 3.2 ("Fourier features", "Transformed Fourier features").
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from latentopt.devices import normal
from latentopt.generators.layers import FullyConnected, tuned
from latentopt.geometry.moves import inverse_move


class FourierInput(nn.Module):
    """forward(w [B,C], transform) -> [B,channels,size,size].

    The learned affine turns and shifts the plane: (cos, sin, x, y) up to a common factor. The buffer `transform` [3,3]
    is what NVIDIA's tools set: the INVERSE of a move of the picture; it is the identity in most files.
    """

    freqs: Tensor  # [channels,2] in cycles per width
    phases: Tensor  # [channels] in cycles
    transform: Tensor  # [3,3]

    def __init__(self, w_dim: int, channels: int, size: int, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        self.weight = nn.Parameter(normal(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias = nn.Parameter(torch.as_tensor([1.0, 0.0, 0.0, 0.0]))
        self.weight_gain = 1 / math.sqrt(channels)
        self.register_buffer("freqs", _in_disc(channels, bandwidth))
        self.register_buffer("phases", torch.rand(channels))
        self.register_buffer("transform", torch.as_tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))  # eye is slow on meta

    def forward(
        self,
        w: Tensor,
        move: Tensor | None = None,  # [B,3,3] of the picture
        deltas: Mapping[str, Tensor] | None = None,
        name: str = "",
        styles: Tensor | None = None,  # [B,4], in place of the affine's output
    ) -> Tensor:
        if styles is None:
            styles = self.affine(w, deltas, f"{name}.affine")  # [B,4]
        place = self.placed(styles.to(self.freqs.dtype), move)  # [B,2,3]
        freqs = self.freqs @ place[:, :, :2]  # [B,channels,2]
        phases = self.phases + (self.freqs @ place[:, :, 2:])[:, :, 0]
        fading = (self.rate / 2 - freqs.norm(dim=2)) / (self.rate / 2 - self.bandwidth)
        centres = (torch.arange(self.size, device=freqs.device, dtype=freqs.dtype) + 0.5 - self.size / 2) / self.rate
        across, down = (freqs[:, :, axis, None] * centres for axis in (0, 1))  # [B,channels,size]
        cycles = across[:, :, None, :] + (down + phases[:, :, None])[..., None]
        x = (2 * math.pi * cycles).sin() * fading.clamp(0, 1)[..., None, None]
        weight = tuned(self.weight, f"{name}.weight", deltas) * self.weight_gain
        return (weight @ x.flatten(2)).unflatten(2, (self.size, self.size))

    def placed(self, styles: Tensor, move: Tensor | None) -> Tensor:
        """From points of the picture to points of the plane of features, [B,2,3]."""
        c, s, x, y = (styles / styles[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        turn = torch.stack([c, -s, s, c], dim=1).unflatten(1, (2, 2))
        learned = torch.cat([turn, -turn @ torch.stack([x, y], dim=1)[..., None]], dim=2)  # [B,2,3]
        return learned @ (self.transform if move is None else self.transform @ inverse_move(move.to(self.transform)))


def _in_disc(count: int, radius: float) -> Tensor:
    """Points drawn evenly in a disc, [count,2]."""
    r, turn = torch.rand(2, count)
    if r.is_meta:
        return r.new_empty(count, 2)
    return torch.stack([turn.mul(2 * math.pi).cos(), turn.mul(2 * math.pi).sin()], dim=1) * (radius * r.sqrt())[:, None]
