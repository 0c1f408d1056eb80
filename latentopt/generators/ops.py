"""The primitive operations of StyleGAN2, in plain torch: FIR resampling, bias and activation, modulated convolution.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), sections 2 and 4 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2
SQRT2 = math.sqrt(2.0)
ACTIVATIONS = {
    "linear": (lambda x: x, 1.0),
    "lrelu": (lambda x: F.leaky_relu(x, LRELU_SLOPE), SQRT2),
    "relu": (F.relu, SQRT2),
    "swish": (F.silu, SQRT2),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 1.0),
    "elu": (F.elu, 1.0),
    "selu": (F.selu, 1.0),
    "softplus": (F.softplus, 1.0),
}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    activation: str = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(act(x + bias) * default_gain * gain, +-clamp)`; bias is [C] or, for one bias an image, [B,C].

    `clamp` is the value before `gain`: a layer with an extra gain has its clamp scaled along.
    """
    function, default_gain = ACTIVATIONS[activation]
    if bias is not None:
        bias = bias.to(x.dtype)
        rows = bias if bias.ndim == 2 else bias[None]
        x = x + rows.reshape(*rows.shape, *[1] * (x.ndim - 2))
    x = function(x)
    if default_gain * gain != 1:
        x = x * (default_gain * gain)
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def fir_filter(taps: Sequence[float] = (1, 3, 3, 1)) -> Tensor:
    """The 2-D outer product of `taps`, summing to 1: [1,3,3,1] gives the [4,4] filter of every official StyleGAN2."""
    f = torch.as_tensor(taps, dtype=torch.float32)
    if f.is_meta:  # see `latentopt.devices.normal`
        return f.new_empty(len(f), len(f))
    f = torch.outer(f, f)  # [t,t]
    return f / f.sum()


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    x, y = (value, value) if isinstance(value, int) else value
    return int(x), int(y)


def upfirdn(
    x: Tensor,
    f: Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0, 0, 0),
    gain: float = 1.0,
    flip_filter: bool = False,
) -> Tensor:
    """Insert zeros, pad (x0, x1, y0, y1; negative crops), convolve with `f`, keep every `down`-th sample.

    A 1-D `f` runs along both axes with `sqrt(gain)` each. `f` is convolved, or correlated with `flip_filter`.
    """
    if f.ndim == 1:
        (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
        x = upfirdn(x, f[None, :], (up_x, 1), (down_x, 1), (*pad[:2], 0, 0), gain**0.5, flip_filter)
        return upfirdn(x, f[:, None], (1, up_y), (1, down_y), (0, 0, *pad[2:]), gain**0.5, flip_filter)
    (up_x, up_y), (down_x, down_y), channels = _pair(up), _pair(down), x.shape[1]
    x0, x1, y0, y1 = pad
    if (up_x, up_y) != (1, 1):
        height, width = x.shape[2:]
        x = F.pad(x[:, :, :, None, :, None], (0, up_x - 1, 0, 0, 0, up_y - 1))  # [B,C,h,up_y,w,up_x]
        x = x.reshape(x.shape[0], channels, height * up_y, width * up_x)
    kernel = (f if flip_filter else f.flip(0, 1)) * gain
    kernel = kernel.to(x.dtype)[None, None].expand(channels, 1, *f.shape)
    padding = (y0, x0)
    if not x0 == x1 >= 0 or not y0 == y1 >= 0:
        x, padding = F.pad(x, (x0, x1, y0, y1)), (0, 0)
    if x.device.type == "cpu":  # the gradient of a strided depthwise convolution is ten times slower there
        return F.conv2d(x, kernel, padding=padding, groups=channels)[:, :, ::down_y, ::down_x]
    return F.conv2d(x, kernel, stride=(down_y, down_x), padding=padding, groups=channels)


def _resample_padding(f: Tensor, low: int, high: int) -> tuple[int, int, int, int]:
    height, width = (f.shape[0], f.shape[0]) if f.ndim == 1 else f.shape
    return (width + low) // 2, (width + high) // 2, (height + low) // 2, (height + high) // 2


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """Double the size: zero insertion and filtering with gain 4."""
    return upfirdn(x, f, up=2, pad=_resample_padding(f, 1, -2), gain=4.0)


def downsample2d(x: Tensor, f: Tensor) -> Tensor:
    """Halve the size."""
    return upfirdn(x, f, down=2, pad=_resample_padding(f, -1, -2))


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    groups: int = 1,
    padding: int | None = None,
) -> Tensor:
    """Convolve with weight [O,I/groups,k,k], k 1 or 3, fused with resampling by 2 (up or down).

    Up-sampling is a transposed convolution first and the filter after it; down-sampling filters first. Without either,
    `padding` is half the kernel where it is not given, and any kernel may be.
    """
    kernel = weight.shape[-1]
    if up == 1 and down == 1:
        return F.conv2d(x, weight, padding=kernel // 2 if padding is None else padding, groups=groups)
    if f is None:
        raise ValueError("a convolution that changes the size needs its filter f")
    if down == 2 and kernel == 1:
        return F.conv2d(downsample2d(x, f), weight, groups=groups)
    if down == 2:
        return F.conv2d(upfirdn(x, f, pad=(2, 2, 2, 2)), weight, stride=2, groups=groups)
    if kernel == 1:
        return upsample2d(F.conv2d(x, weight, groups=groups), f)
    transposed = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # [I,O/groups,k,k]
    x = F.conv_transpose2d(x, transposed, stride=2, groups=groups)  # size 2n+1
    return upfirdn(x, f, pad=(1, 1, 1, 1), gain=4.0)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    demodulate: bool = True,
    epsilon: float = 1e-8,
    gain: float | Tensor = 1.0,
    padding: int | None = None,
) -> Tensor:
    """Convolution whose weight is scaled per image by `styles` [B,I] and normalised (equations 1 and 3), times `gain`.

    weight [O,I,k,k] is shared by the batch and takes the fast form `conv(x * s, W) * d`, one convolution for all
    images, with `d = 1/sqrt(sum (W s)^2 + epsilon)`. A weight an image [B,O,I,k,k], or a style a filter [B,O,I], is a
    convolution an image on the CPU, elsewhere a grouped one.
    """
    if x.dtype == torch.float16 and demodulate:  # keep products inside the range of half precision; d cancels both
        fan_in = math.prod(weight.shape[-3:])
        weight = weight / (math.sqrt(fan_in) * weight.abs().amax(dim=(-3, -2, -1), keepdim=True))
        styles = styles / styles.abs().amax(dim=-1, keepdim=True)
    if weight.ndim == 5 or styles.ndim == 3:
        return _modulated_conv2d_an_image(x, weight, styles, f, up, demodulate, epsilon, gain, padding)
    y = conv2d_resample(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), f, up, padding=padding)
    if not demodulate:
        return y * gain if isinstance(gain, Tensor) or gain != 1 else y
    energy = styles.square() @ weight.square().sum(dim=(2, 3)).T  # [B,O]
    return y * (gain * (energy + epsilon).rsqrt()).to(x.dtype)[:, :, None, None]


def _modulated_conv2d_an_image(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor | None,
    up: int,
    demodulate: bool,
    epsilon: float,
    gain: float | Tensor,
    padding: int | None,
) -> Tensor:
    batch = x.shape[0]
    styles = styles[:, None] if styles.ndim == 2 else styles  # [B,1 or O,I]
    factors = styles * gain
    if demodulate:  # the sum over k x k is of W alone: a shared W needs nothing of the size [B,O,I,k,k] for it
        energy = (styles.square() * weight.square().sum(dim=(-2, -1))).sum(dim=2, keepdim=True)  # [B,O,1]
        factors = factors * (energy + epsilon).rsqrt()  # [B,O,I]
    weight = weight * factors[..., None, None]  # [B,O,I,k,k]
    weight = weight.to(x.dtype)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # a group of 32 images takes up to 5 times as long in bfloat16, since oneDNN and autograd copy it to and fro
        images = zip(x.split(1), weight.unbind(), strict=True)
        return torch.cat([conv2d_resample(image, own, f, up, padding=padding) for image, own in images])
    x = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), weight.flatten(0, 1), f, up, groups=batch, padding=padding)
    return x.reshape(batch, -1, *x.shape[2:])


def normalize_second_moment(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """`x / sqrt(mean_C(x^2) + epsilon)`: the normalisation of z before the mapping network."""
    return x * (x.square().mean(dim=1, keepdim=True) + epsilon).rsqrt()
