"""One layer of StyleGAN3: a modulated convolution and the filtered leaky ReLU.

Source: Karras et al. 2021, section 3.2 and appendix F (weights and styles normalised before demodulation, activations
by a running mean of their squares).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from latentopt.devices import normal
from latentopt.generators.filtered import Filters
from latentopt.generators.layers import FullyConnected, tuned
from latentopt.generators.lowpass import lowpass
from latentopt.generators.ops import LRELU_SLOPE, SQRT2, modulated_conv2d
from latentopt.generators.stylegan3_config import LayerGeometry

EPSILON = 1e-8  # of the demodulation, which stands on normalised weights and styles
TINY = 1e-20


class SynthesisLayer3(nn.Module):
    """x [B,I,in_size,in_size] -> [B,O,out_size,out_size]; the layer to colours neither demodulates nor filters.

    `magnitude_ema` is the mean square of what comes in, as training left it.
    """

    magnitude_ema: Tensor  # []

    def __init__(self, geometry: LayerGeometry, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        g = self.geometry = geometry
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, g.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(normal(g.out_channels, g.in_channels, g.kernel, g.kernel))
        self.bias = nn.Parameter(torch.zeros(g.out_channels))
        self.weight_gain = 1 / math.sqrt(g.in_channels * g.kernel**2)
        self.register_buffer("magnitude_ema", torch.ones([]))
        for name, f in designed_filters(g).items():
            self.register_buffer(name, f)
        self._filters: tuple[tuple, Filters] | None = None

    def forward(
        self,
        x: Tensor,  # [B,I,h,w]
        w: Tensor,  # [B,C]
        deltas: Mapping[str, Tensor] | None = None,
        name: str = "",
        styles: Tensor | None = None,  # [B,I] or [B,O,I], in place of those of w
    ) -> Tensor:
        g = self.geometry
        if styles is None:
            styles = self.affine(w, deltas, f"{name}.affine")
        weight = tuned(self.weight, f"{name}.weight", deltas)  # [O,I,k,k] or [B,O,I,k,k]
        bias = tuned(self.bias, f"{name}.bias", deltas).to(x.dtype).reshape(-1, g.out_channels, 1, 1)
        gain = self.magnitude_ema.rsqrt()
        if g.is_torgb:
            x = modulated_conv2d(x, weight, styles * (gain * self.weight_gain), demodulate=False)
            return self.filters(x)(x + bias, 1.0, self.clamp)
        weight, styles = normalized(weight, 3), normalized(styles, 1)
        x = modulated_conv2d(x, weight, styles, gain=gain, epsilon=EPSILON, padding=g.kernel - 1)
        return self.filters(x)(x + bias, LRELU_SLOPE, self.clamp)

    @torch.no_grad()
    def follow_magnitude(self, x: Tensor, decay: float) -> None:
        """Move the mean square by `1 - decay` towards that of x, what comes in (appendix F)."""
        # a norm sums in float32 without a copy of x in that type
        square = torch.linalg.vector_norm(x, dtype=self.magnitude_ema.dtype).square() / x.numel()
        self.magnitude_ema.lerp_(square, 1 - decay)

    def filters(self, x: Tensor) -> Filters:
        """The filters as products, for canvases and type of x; made again only when they have changed."""
        g, size = self.geometry, (x.shape[2], x.shape[3])
        up_filter, down_filter = (getattr(self, name, None) for name in ("up_filter", "down_filter"))
        key = (x.dtype, size, *((id(f), f._version) for f in (up_filter, down_filter) if f is not None))
        if self._filters is None or self._filters[0] != key:
            gain = 1.0 if g.is_torgb else SQRT2
            made = Filters.of(size, up_filter, down_filter, g.up, g.down, (*g.pad, *g.pad), x.dtype, gain)
            self._filters = (key, made)
        return self._filters[1]


def designed_filters(g: LayerGeometry) -> dict[str, Tensor]:
    """The filters of a layer by name: that before the leaky ReLU has the band of what comes in, the other that of what
    goes out. The layer to colours has none.
    """
    made = {}
    if g.up_taps > 1:
        made["up_filter"] = lowpass(g.up_taps, g.in_cutoff, 2 * g.in_half_width, g.between_rate)
    if g.down_taps > 1:
        made["down_filter"] = lowpass(g.down_taps, g.out_cutoff, 2 * g.out_half_width, g.between_rate, g.radial)
    return {name: torch.as_tensor(f, dtype=torch.float32) for name, f in made.items()}


def normalized(x: Tensor, dims: int) -> Tensor:
    """x over the root of its mean square over the last `dims` dimensions; zeros stay zeros."""
    square = x.square().mean(dim=tuple(range(-dims, 0)), keepdim=True)
    return x * square.clamp_min(TINY).rsqrt()
