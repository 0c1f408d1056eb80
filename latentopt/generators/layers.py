"""The layers of StyleGAN2 with equalised learning rate, named as in the stylegan2-ada state-dict layout."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentopt.devices import normal
from latentopt.generators.ops import (
    LRELU_SLOPE,
    SQRT2,
    bias_act,
    conv2d_resample,
    modulated_conv2d,
    normalize_second_moment,
)


def tuned(parameter: Tensor, name: str, deltas: Mapping[str, Tensor] | None) -> Tensor:
    """`parameter` plus its delta, if it has one: [*shape] when all images share it, else [B,*shape]."""
    delta = None if deltas is None else deltas.get(name)
    if delta is None:
        return parameter
    return parameter + (delta[0] if delta.shape[0] == 1 else delta)


class FullyConnected(nn.Module):
    """`act(x W^T m/sqrt(in) + b m)` with m the learning-rate multiplier (Karras et al. 2018, equalised lr)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation, self.lr_multiplier = activation, lr_multiplier
        self.weight = nn.Parameter(normal(out_features, in_features, divisor=lr_multiplier))
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)

    def forward(self, x: Tensor, deltas: Mapping[str, Tensor] | None = None, name: str = "") -> Tensor:
        weight = tuned(self.weight, f"{name}.weight", deltas) * self.weight_gain
        bias = tuned(self.bias, f"{name}.bias", deltas) * self.lr_multiplier
        if weight.ndim == 3:  # one weight an image
            return bias_act(torch.einsum("bi,boi->bo", x, weight), bias, self.activation)
        if self.activation == "linear" and bias.ndim == 1:
            return torch.addmm(bias[None], x, weight.T)
        return bias_act(x @ weight.T, bias, self.activation)


class Conv2d(nn.Module):
    """Plain convolution of the discriminator and of resnet skips: `clamp(act(conv(x, W/sqrt(fan_in)) + b))`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)

    def forward(
        self,
        x: Tensor,
        f: Tensor | None = None,
        gain: float = 1.0,
        deltas: Mapping[str, Tensor] | None = None,
        name: str = "",
    ) -> Tensor:
        weight = (tuned(self.weight, f"{name}.weight", deltas) * self.weight_gain).to(x.dtype)
        if weight.ndim == 5:  # one weight an image: a grouped convolution
            y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), weight.flatten(0, 1), f, self.up, self.down, len(x))
            x = y.reshape(len(x), -1, *y.shape[2:])
        else:
            x = conv2d_resample(x, weight, f, self.up, self.down)
        return bias_act(x, self.bias, self.activation, gain, self.conv_clamp)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: one style row, one noise map."""

    noise_const: Tensor  # [h,w]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        up: int,
        conv_clamp: float | None,
        demodulation_epsilon: float,
    ) -> None:
        super().__init__()
        self.up, self.conv_clamp, self.epsilon, self.size = up, conv_clamp, demodulation_epsilon, size
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(normal(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", normal(*size))

    def forward(
        self,
        x: Tensor,  # [B,I,h,w]
        w: Tensor,  # [B,C]
        f: Tensor,
        noise: Tensor | None,  # [B or 1,1,h,w]
        deltas: Mapping[str, Tensor] | None = None,
        name: str = "",
        gain: float = 1.0,
        styles: Tensor | None = None,  # [B,I] or [B,O,I], in place of those of w
    ) -> Tensor:
        if styles is None:
            styles = self.affine(w, deltas, f"{name}.affine")  # [B,I]
        weight = tuned(self.weight, f"{name}.weight", deltas)
        # the activation's gain goes before it, into what is small, so that all that follows may happen in place
        scale = SQRT2 * gain
        x = modulated_conv2d(x, weight, styles, f, self.up, epsilon=self.epsilon, gain=scale)
        if noise is not None:
            strength = tuned(self.noise_strength, f"{name}.noise_strength", deltas) * scale
            x = x.add_((noise * strength.reshape(-1, 1, 1, 1)).to(x.dtype))
        bias = (tuned(self.bias, f"{name}.bias", deltas) * scale).to(x.dtype)
        x = F.leaky_relu_(x.add_(bias.reshape(-1, bias.shape[-1], 1, 1)), LRELU_SLOPE)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp * gain, self.conv_clamp * gain)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to image channels: no demodulation, no noise; the weight gain is on the style."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(normal(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(
        self,
        x: Tensor,  # [B,I,h,w]
        w: Tensor,  # [B,C]
        deltas: Mapping[str, Tensor] | None = None,
        name: str = "",
        styles: Tensor | None = None,  # [B,I] or [B,O,I], in place of those of w
    ) -> Tensor:
        if styles is None:
            styles = self.affine(w, deltas, f"{name}.affine")  # [B,I]
        weight = tuned(self.weight, f"{name}.weight", deltas)
        x = modulated_conv2d(x, weight, styles * self.weight_gain, demodulate=False)
        return bias_act(x, tuned(self.bias, f"{name}.bias", deltas), clamp=self.conv_clamp)


class MappingNetwork(nn.Module):
    """z (and label c) to w: normalisation, then fully connected layers, the last one activated too.

    forward(z [B,Z], c [B,K] or None) -> w [B,C]. `w_avg` [C] is the running mean of w, absent without `track_w_avg`.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_layers: int,
        embed_features: int | None = None,
        layer_features: int | None = None,
        lr_multiplier: float = 0.01,
        track_w_avg: bool = True,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_layers = z_dim, c_dim, num_layers
        embed = (embed_features or w_dim) if c_dim else 0
        widths = [z_dim + embed, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        if c_dim:
            self.embed = FullyConnected(c_dim, embed)
        for i in range(num_layers):
            self.add_module(f"fc{i}", FullyConnected(widths[i], widths[i + 1], "lrelu", lr_multiplier))
        if track_w_avg:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    @property
    def layers(self) -> list[FullyConnected]:
        return [getattr(self, f"fc{i}") for i in range(self.num_layers)]

    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        parts = [] if z is None else [normalize_second_moment(z)]
        if self.c_dim:
            if c is None:
                raise ValueError(f"this generator is conditional: pass labels c of shape [B,{self.c_dim}]")
            parts.append(normalize_second_moment(self.embed(c)))
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            x = layer(x)
        return x
