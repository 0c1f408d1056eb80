"""The StyleGAN3 synthesis network: style vectors, a move of the picture and weight deltas in, image out.

Source: Karras et al. 2021, figure 4. Layers are named as in NVIDIA's files, `L<number>_<size>_<channels>`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from latentopt.errors import UsageError
from latentopt.generators.drawing import Captured, check_drawable
from latentopt.generators.fourier_input import FourierInput
from latentopt.generators.network import Synthesis
from latentopt.generators.recomputing import checkpointed, is_large
from latentopt.generators.stylegan3_config import StyleGAN3Config
from latentopt.generators.stylegan3_layer import SynthesisLayer3
from latentopt.generators.styling import own_style
from latentopt.types import Beginning, GeneratorInputs

INPUT = "input"
OCTAVES = 4  # layers of a coarser rate than the picture's by more than these stay in float32


class SynthesisNetwork3(Synthesis):
    """forward(inputs) -> image [B,3,H,W], nominally in [-1,1], not clamped, float32. Row 0 of ws drives the input, row
    i + 1 layer i.

    `low_precision` (torch.float16 or torch.bfloat16) is the type of the layers within OCTAVES of the picture's rate;
    the input, styles, demodulation and the image stay float32. `memory_format` is that of what convolutions take.
    `low_memory`: large layers keep their input only, and are computed again for the gradient.
    `magnitude_decay`: while training, each layer's `magnitude_ema` keeps that share of itself at each pass; None leaves
    it as it is.
    """

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        self.num_ws, self.output_scale = config.num_layers + 2, config.output_scale
        self.finest_rate = config.rates[-1]
        self.magnitude_decay: float | None = None
        self.input = FourierInput(
            config.w_dim, config.channels[0], config.sizes[0], config.rates[0], config.first_cutoff
        )
        self.layer_names = [geometry.name for geometry in config.layers]
        for geometry in config.layers:
            self.add_module(geometry.name, SynthesisLayer3(geometry, config.w_dim, config.conv_clamp))

    @property
    def layers(self) -> dict[str, SynthesisLayer3]:
        """The convolutions by name, from coarse to fine, that to colours included."""
        return {name: getattr(self, name) for name in self.layer_names}

    @property
    def modulated(self) -> dict[str, FourierInput | SynthesisLayer3]:
        """The input and the layers by name; the place in it is the row of ws."""
        return {INPUT: self.input, **self.layers}

    def forward(
        self,
        inputs: GeneratorInputs,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        beginning: Beginning | None = None,
    ) -> Tensor:
        """Draw `inputs`. There is no noise: `noise_mode` and `rng` are taken, and change nothing."""
        return self.run(inputs, noise_mode, beginning=beginning)[0]

    def run(
        self,
        inputs: GeneratorInputs,
        noise_mode: str = "const",
        capture: Collection[str] = (),
        beginning: Beginning | None = None,
        until_captured: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `forward`, with the activations named in `capture`: `input`, and the layers by their names.
        until_captured: nothing is drawn after the last of them, and what stands for the image is none.
        """
        check_drawable(inputs, self.num_ws, noise_mode)
        if inputs.noise:
            raise UsageError(f"a StyleGAN3 generator has no noise maps; given are {', '.join(list(inputs.noise)[:3])}")
        ws, deltas, styles = inputs.ws, inputs.deltas, inputs.styles or {}
        captured, names = Captured(inputs.residuals or {}, capture), self.layer_names
        if beginning is None:
            place = own_style(styles, INPUT, self.input, ws[:, 0], deltas)
            x = self.input(ws[:, 0], inputs.transform, deltas, f"synthesis.{INPUT}", place)
            x = captured.finish(INPUT, x)
        else:
            x = beginning.x
            names = names[[INPUT, *names].index(beginning.after) :]
        for name in names:
            if until_captured and captured.complete:
                return x, captured.features
            layer: SynthesisLayer3 = getattr(self, name)
            drawn = checkpointed if self.is_recomputed(layer) else nn.Module.__call__
            x = x.to(self.precision_of(layer)).contiguous(memory_format=self.memory_format)
            if self.magnitude_decay is not None:
                layer.follow_magnitude(x, self.magnitude_decay)
            w = ws[:, self.layer_names.index(name) + 1]
            given = own_style(styles, name, layer, w, deltas)
            x = captured.finish(name, drawn(layer, x, w, deltas, f"synthesis.{name}", given))
        return x.to(self.input.freqs.dtype) * self.output_scale, captured.features

    def is_recomputed(self, layer: SynthesisLayer3) -> bool:
        """Whether a layer is computed again for the gradient."""
        return self.low_memory and is_large((layer.geometry.between_size,) * 2)

    def precision_of(self, layer: SynthesisLayer3) -> torch.dtype:
        low = layer.geometry.out_rate * 2**OCTAVES > self.finest_rate
        return self.low_precision if low and self.low_precision is not None else self.input.freqs.dtype
