"""The configuration of a StyleGAN3 generator, and the geometry of its layers that follows from it.

Source: Karras et al. 2021, section 3.3 and figure 4: cutoffs and stopbands grow geometrically from layer to layer, each
layer's sampling rate is the power of two that holds its stopband, and every canvas has a margin around the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from latentopt.generators.config import NetworkConfig

if TYPE_CHECKING:
    from latentopt.generators.stylegan3 import StyleGAN3

MOST = {"img_resolution": 1 << 14, "margin_size": 1 << 10, "filter_size": 64, "lrelu_upsampling": 16, "conv_kernel": 31}


@dataclass(frozen=True)
class LayerGeometry:
    """One layer: it maps `in_channels` on a canvas of `in_size` pixels to `out_channels` on one of `out_size`.

    Rates, cutoffs and half widths of transition bands are in cycles per width of the picture. Between the two filters
    there are `up` samples for one that comes in and `down` for one that goes out. pad: before and after the zero
    insertion's result, on both axes; negative crops.
    """

    name: str
    is_torgb: bool
    is_critical: bool
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_rate: float
    out_rate: float
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    kernel: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    radial: bool
    pad: tuple[int, int]

    @property
    def between_rate(self) -> float:
        """The sampling rate between the two filters."""
        return self.in_rate * self.up

    @property
    def between_size(self) -> int:
        """The size of the canvas between the two filters."""
        return (self.in_size + self.kernel - 1) * self.up + sum(self.pad) - self.up_taps + 1


@dataclass(frozen=True)
class StyleGAN3Config(NetworkConfig["StyleGAN3"]):
    """`channels` are what the layers give out, from coarse to fine, without the last layer, to colours; the input has
    as many as the first. conv_kernel 3 and separable filters are the paper's T, 1 and radial ones its R.
    """

    FILTER: ClassVar[str] = ""
    MAY_BE_ZERO: ClassVar[tuple[str, ...]] = ("c_dim", "num_fp16_res", "num_critical", "margin_size")

    z_dim: int
    w_dim: int
    img_resolution: int
    channels: tuple[int, ...]
    c_dim: int = 0
    img_channels: int = 3
    mapping_layers: int = 2
    lr_multiplier: float = 0.01
    conv_kernel: int = 3
    radial_filters: bool = False
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    filter_size: int = 6
    lrelu_upsampling: int = 2
    conv_clamp: float | None = 256.0
    output_scale: float = 0.25
    num_fp16_res: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, not {getattr(self, name)}")
        if not self.num_critical < len(self.channels):
            raise ValueError(f"num_critical must be below the number of layers, {len(self.channels)}")
        if not self.first_cutoff < self.first_stopband < self.img_resolution:
            raise ValueError(f"first_stopband must lie between the first cutoff and {self.img_resolution}")

    @staticmethod
    def planned(img_resolution: int, channel_base: float, channel_max: int, layers: int, critical: int = 2) -> tuple:
        """The paper's channels: as many as fit `channel_base` over twice the cutoff, at most `channel_max`."""
        cutoffs = _between(2.0, img_resolution / 2, layers, critical)
        return tuple(round(min(channel_base / 2 / cutoff, channel_max)) for cutoff in cutoffs[:-1])

    def build(self) -> StyleGAN3:
        from latentopt.generators.stylegan3 import StyleGAN3

        return StyleGAN3(self)

    def least_tensors(self) -> int:
        return len(self.channels) + self.mapping_layers

    @property
    def num_layers(self) -> int:
        """Layers before that to colours."""
        return len(self.channels)

    @cached_property
    def cutoffs(self) -> list[float]:
        return _between(self.first_cutoff, self.img_resolution / 2, self.num_layers, self.num_critical)

    @cached_property
    def stopbands(self) -> list[float]:
        last = self.img_resolution / 2 * self.last_stopband_rel
        return _between(self.first_stopband, last, self.num_layers, self.num_critical)

    @cached_property
    def rates(self) -> list[int]:
        return [int(2 ** math.ceil(math.log2(min(2 * f, self.img_resolution)))) for f in self.stopbands]

    @cached_property
    def sizes(self) -> list[int]:
        """Of the canvas that each layer gives out; the first is the input's too. The last two are the picture's."""
        return [rate + 2 * self.margin_size for rate in self.rates[:-2]] + [self.img_resolution] * 2

    @cached_property
    def layers(self) -> list[LayerGeometry]:
        return [self._layer(i) for i in range(self.num_layers + 1)]

    def _layer(self, i: int) -> LayerGeometry:
        before, torgb, widths = max(i - 1, 0), i == self.num_layers, (*self.channels, self.img_channels)
        half_widths = [max(self.stopbands[j], self.rates[j] / 2) - self.cutoffs[j] for j in (before, i)]
        between = max(self.rates[before], self.rates[i]) * (1 if torgb else self.lrelu_upsampling)
        up, down, kernel = between // self.rates[before], between // self.rates[i], 1 if torgb else self.conv_kernel
        up_taps, down_taps = (self.filter_size * f if f > 1 and not torgb else 1 for f in (up, down))
        pad = (self.sizes[i] - 1) * down + 1 - (self.sizes[before] + kernel - 1) * up + up_taps + down_taps - 2
        is_critical = i >= self.num_layers - self.num_critical
        return LayerGeometry(
            name=f"L{i}_{self.sizes[i]}_{widths[i]}",
            is_torgb=torgb,
            is_critical=is_critical,
            in_channels=widths[before],
            out_channels=widths[i],
            in_size=self.sizes[before],
            out_size=self.sizes[i],
            in_rate=self.rates[before],
            out_rate=self.rates[i],
            in_cutoff=self.cutoffs[before],
            out_cutoff=self.cutoffs[i],
            in_half_width=half_widths[0],
            out_half_width=half_widths[1],
            kernel=kernel,
            up=up,
            down=down,
            up_taps=up_taps,
            down_taps=down_taps,
            radial=self.radial_filters and not is_critical and down_taps > 1,
            pad=((pad + up) // 2, pad - (pad + up) // 2),
        )


def _between(first: float, last: float, layers: int, critical: int) -> list[float]:
    """From `first` to `last` in equal ratios, [layers + 1]; the last `critical` layers have the last value."""
    return [first * (last / first) ** min(i / (layers - critical), 1.0) for i in range(layers + 1)]
