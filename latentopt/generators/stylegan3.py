"""The StyleGAN3 generator: what the rest of latentopt asks of a generator of any family.

Source: Karras et al. 2021, Alias-Free Generative Adversarial Networks.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from latentopt.generators.layers import MappingNetwork
from latentopt.generators.network import GeneratorNetwork
from latentopt.generators.stylegan3_config import StyleGAN3Config
from latentopt.generators.stylegan3_synthesis import INPUT, SynthesisNetwork3
from latentopt.generators.styling import styled
from latentopt.types import Beginning, GeneratorInputs, place_of


class StyleGAN3(GeneratorNetwork):
    """A StyleGAN3 generator; satisfies `latentopt.protocols.Generator`, where its members are described.

    State-dict names are those of NVIDIA's files, the filters of each layer included.
    """

    Config = StyleGAN3Config
    family = "StyleGAN3"
    takes_transform = True

    config: StyleGAN3Config
    synthesis: SynthesisNetwork3

    def __init__(self, config: StyleGAN3Config, name: str = "generator") -> None:
        super().__init__(name)
        self.config = config
        self.mapping = MappingNetwork(
            config.z_dim, config.c_dim, config.w_dim, config.mapping_layers, lr_multiplier=config.lr_multiplier
        )
        self.synthesis = SynthesisNetwork3(config)

    @property
    def img_channels(self) -> int:
        return self.config.img_channels

    @property
    def resolution(self) -> tuple[int, int]:
        return self.config.img_resolution, self.config.img_resolution

    @property
    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """Empty: this family has no noise."""
        return {}

    @property
    def noise_const(self) -> dict[str, Tensor]:
        return {}

    @property
    def layers(self) -> dict[str, int]:
        """`input` and `L0_36_512`, with their rows of ws. The style of the input is its place: (cos, sin, x, y)."""
        return {name: row for row, name in enumerate(self.synthesis.modulated)}

    @property
    def activations(self) -> dict[str, int]:
        """The Fourier features (`input`) and what the layers give out (`L0_36_512`), with their rows of ws."""
        return self.layers

    @property
    def convolutions(self) -> dict[str, str]:
        """`L0_36_512`: `synthesis.L0_36_512.weight`; that to colours is left out."""
        return {name: f"synthesis.{name}.weight" for name in self.synthesis.layer_names[:-1]}

    @property
    def placing(self) -> frozenset[str]:
        """The weights of the Fourier input and of its affine."""
        return frozenset(name for name in self.tunable if name.startswith(f"synthesis.{INPUT}."))

    def row_of(self, name: str) -> int | None:
        return self.layers.get(name.removeprefix("synthesis.").partition(".")[0])

    def shown(self, activation: str) -> float:
        """Canvases are wider than the picture by a margin, but for the last two."""
        i = max(self.layers[activation] - 1, 0)  # the input has the canvas of the first layer
        return min(1.0, self.config.rates[i] / self.config.sizes[i])

    def affine(self, layer: str) -> Tensor:
        return self.synthesis.modulated[layer].affine.weight

    def styles(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        return {
            name: styled(inputs.styles, name, layer, inputs.ws[:, row], inputs.deltas)
            for row, (name, layer) in enumerate(self.synthesis.modulated.items())
        }

    @torch.no_grad()
    def begin(self, inputs: GeneratorInputs, changing: Set[str], noise_mode: str = "const") -> Beginning | None:
        """The layers before the first in which something changes: every entry that may change names its layer."""
        rows = [self.row_of(place_of(name.partition("/")[2])) or 0 for name in changing]
        if (first := min(rows, default=0)) == 0:
            return None
        after = list(self.layers)[first - 1]
        return Beginning(after, self.activations_of(inputs, (after,), noise_mode)[after])

    @property
    def architecture(self) -> dict[str, object]:
        c = self.config
        return {
            "channels": list(c.channels),
            "mapping_layers": c.mapping_layers,
            "lr_multiplier": c.lr_multiplier,
            "conv_kernel": c.conv_kernel,
            "radial_filters": c.radial_filters,
            "critically_sampled": c.num_critical,
            "conv_clamp": c.conv_clamp,
            "layer_sizes": c.sizes,
        }

    @property
    def gradient_bytes(self) -> int:
        """A layer keeps what its convolution takes and gives, and what stands between its filters twice: before the
        leaky ReLU and after it.
        """
        kept, most = 0, 0
        for layer in self.synthesis.layers.values():
            g = layer.geometry
            taken = g.in_channels * g.in_size**2
            inside = g.out_channels * ((g.in_size + g.kernel - 1) ** 2 + 2 * g.between_size**2)
            kept += taken if self.synthesis.is_recomputed(layer) else taken + inside
            most = max(most, inside)
        return (kept + most) * self.precision.itemsize
