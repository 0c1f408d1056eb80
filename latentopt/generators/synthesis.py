"""The StyleGAN2 synthesis network: style vectors, noise maps and weight deltas in, image out.

Source: Karras et al. 2020, figures 2 and 7. Blocks are named `b4, b8, ...` by their place, also when not square.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from latentopt.devices import normal
from latentopt.errors import UsageError
from latentopt.generators.drawing import Captured, check_drawable
from latentopt.generators.layers import Conv2d, SynthesisLayer, ToRGB, tuned
from latentopt.generators.network import Synthesis
from latentopt.generators.ops import fir_filter, upsample2d
from latentopt.generators.recomputing import checkpointed, is_large
from latentopt.generators.styling import own_style
from latentopt.types import Beginning, GeneratorInputs

ARCHITECTURES = ("skip", "resnet", "orig")


class SynthesisBlock(nn.Module):
    """One resolution: up-sampling conv0 (absent in the first block), conv1, and torgb where there is one."""

    def __init__(
        self,
        index: int,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        img_channels: int,
        is_last: bool,
        architecture: str,
        conv_clamp: float | None,
        demodulation: str,
    ) -> None:
        super().__init__()
        self.index, self.architecture, self.conv_clamp = index, architecture, conv_clamp
        self.name = f"b{4 << index}"

        def layer(inputs: int, up: int) -> SynthesisLayer:
            epsilon = 1e-8 * (inputs * 9 if demodulation == "scaled" else 1)
            return SynthesisLayer(inputs, out_channels, w_dim, size, up, conv_clamp, epsilon)

        if index == 0:
            self.const = nn.Parameter(normal(out_channels, *size))
        else:
            self.conv0 = layer(in_channels, up=2)
        self.conv1 = layer(out_channels, up=1)
        if architecture == "skip" or is_last:
            self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp)
        if architecture == "resnet" and index > 0:
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, up=2)

    @property
    def layers(self) -> dict[str, SynthesisLayer]:
        names = ("conv1",) if self.index == 0 else ("conv0", "conv1")
        return {f"{self.name}.{name}": getattr(self, name) for name in names}


class SynthesisNetwork(Synthesis):
    """forward(inputs) -> image [B,3,H,W], nominally in [-1,1], not clamped, float32.

    `low_precision` (torch.float16 or torch.bfloat16) is the type of the last `low_precision_blocks` blocks; styles,
    demodulation, noise and the image stay float32. `memory_format` is that of the activations. `low_memory`: large
    layers keep their input only, and are computed again for the gradient.
    """

    resample_filter: Tensor

    def __init__(
        self,
        w_dim: int,
        channels: tuple[int, ...],
        const_size: tuple[int, int] = (4, 4),
        img_channels: int = 3,
        architecture: str = "skip",
        conv_clamp: float | None = None,
        demodulation: str = "raw",
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
        self.architecture, self.num_ws = architecture, 2 * len(channels)
        self.low_precision_blocks = 0
        self.blocks: list[SynthesisBlock] = []
        for i, width in enumerate(channels):
            size = (const_size[0] << i, const_size[1] << i)
            block = SynthesisBlock(
                i,
                channels[max(i - 1, 0)],
                width,
                w_dim,
                size,
                img_channels,
                i == len(channels) - 1,
                architecture,
                conv_clamp,
                demodulation,
            )
            self.add_module(block.name, block)
            self.blocks.append(block)
        self.register_buffer("resample_filter", fir_filter())

    @property
    def layers(self) -> dict[str, SynthesisLayer]:
        """Every layer that takes a noise map, by name (`b8.conv0`), from coarse to fine."""
        return {name: layer for block in self.blocks for name, layer in block.layers.items()}

    @property
    def modulated(self) -> dict[str, tuple[int, SynthesisLayer | ToRGB]]:
        """Every modulated layer by name (`b8.conv0`, `b8.torgb`), with its row of ws, from coarse to fine."""
        found: dict[str, tuple[int, SynthesisLayer | ToRGB]] = {}
        for block in self.blocks:
            row = max(2 * block.index - 1, 0)
            for name, layer in block.layers.items():
                found[name] = (row, layer)
                row += 1
            if hasattr(block, "torgb"):
                found[f"{block.name}.torgb"] = (row, block.torgb)
        return found

    def forward(
        self,
        inputs: GeneratorInputs,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        beginning: Beginning | None = None,
    ) -> Tensor:
        """Draw `inputs`. Layers without a noise map in it follow `noise_mode`: const, random (of `rng`) or none."""
        return self.run(inputs, noise_mode, rng, beginning=beginning)[0]

    def run(
        self,
        inputs: GeneratorInputs,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        capture: Collection[str] = (),
        beginning: Beginning | None = None,
        until_captured: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `forward`, with the activations named in `capture`: layers (`b8.conv0`), block outputs (`b8`), skip images
        (`b8.img`). until_captured: nothing is drawn after the last of them, and what stands for the image is none.
        """
        check_drawable(inputs, self.num_ws, noise_mode)
        ws, deltas, styles = inputs.ws, inputs.deltas, inputs.styles or {}
        if inputs.transform is not None:
            raise UsageError("a StyleGAN2 generator has no input transform; transform belongs to StyleGAN3")
        captured = Captured(inputs.residuals or {}, capture)
        finish = captured.finish
        if beginning is None:
            const = tuned(self.blocks[0].const, "synthesis.b4.const", deltas)
            x, image, first = const if const.ndim == 4 else const.expand(len(ws), *const.shape), None, 0
        else:
            x, image = beginning.x, beginning.image
            first = 1 + next(block.index for block in self.blocks if block.name == beginning.after)
        x = x.contiguous(memory_format=self.memory_format)
        for block in self.blocks[first:]:
            x = x.to(self._precision(block))
            skip, row = x, max(2 * block.index - 1, 0)
            for name, layer in block.layers.items():
                noise = self._noise(name, layer, inputs.noise, noise_mode, rng, len(ws))
                last_of_pair = name.endswith("conv1") and block.index > 0
                gain = math.sqrt(0.5) if self.architecture == "resnet" and last_of_pair else 1.0
                f = self.resample_filter
                given = own_style(styles, name, layer, ws[:, row], deltas)
                drawn = checkpointed if self.is_recomputed(layer.size) else nn.Module.__call__
                x = finish(name, drawn(layer, x, ws[:, row], f, noise, deltas, f"synthesis.{name}", gain, given))
                row += 1
                if until_captured and captured.complete:
                    return x, captured.features
            if self.architecture == "resnet" and block.index > 0:
                name = f"synthesis.{block.name}.skip"
                x = block.skip(skip, self.resample_filter, math.sqrt(0.5), deltas, name) + x
            x = finish(block.name, x)
            if hasattr(block, "torgb"):
                name = f"{block.name}.torgb"
                drawn = checkpointed if self.is_recomputed(layer.size) else nn.Module.__call__
                given = own_style(styles, name, block.torgb, ws[:, row], deltas)
                rgb = drawn(block.torgb, x, ws[:, row], deltas, f"synthesis.{name}", given).float()
                image = rgb if image is None else upsample2d(image, self.resample_filter) + rgb
                image = finish(f"{block.name}.img", image)
            if until_captured and captured.complete:
                return x, captured.features
        assert image is not None  # the last block has a toRGB in every architecture
        return image, captured.features

    def is_recomputed(self, size: tuple[int, int]) -> bool:
        """Whether a layer of this size is computed again for the gradient."""
        return self.low_memory and is_large(size)

    def _precision(self, block: SynthesisBlock) -> torch.dtype:
        low = block.index > 0 and block.index >= len(self.blocks) - self.low_precision_blocks
        return self.low_precision if low and self.low_precision is not None else self.blocks[0].const.dtype

    @staticmethod
    def _noise(
        name: str,
        layer: SynthesisLayer,
        given: Mapping[str, Tensor] | None,
        noise_mode: str,
        rng: torch.Generator | None,
        batch: int,
    ) -> Tensor | None:
        if given is not None and name in given:
            return given[name]
        if noise_mode == "const":
            return layer.noise_const[None, None]
        if noise_mode == "none":
            return None
        return torch.randn(batch, 1, *layer.size, generator=rng, device=layer.noise_const.device)
