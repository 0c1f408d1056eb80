"""Spaces behind the affine layers: StyleSpace, and one w for every filter.

B images, I channels in, O filters, C = w_dim.

What they write is added to the styles that come of ws (`+layer` in `GeneratorInputs.styles`), so that an edit of ws
moves a code of theirs as it moves any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.protocols import Generator, Parameterization
from latentopt.types import ADDS, GeneratorInputs, Variables


class Styled(Parameterization):
    """What both have: the styles of a result, and writing them as differences to those of its ws."""

    owns = {"styles"}
    recipe = "i2s"

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @torch.no_grad()
    def plain(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        """The styles [B,I] that ws alone makes."""
        return self.generator.styles(inputs.replace(styles=None))

    @torch.no_grad()
    def whole(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        """The styles that the inputs are drawn with, [B,I] or [B,O,I]."""
        return self.generator.styles(inputs)


class S(Styled):
    """S, the StyleSpace: one variable [B,I] for every modulated layer, its affine's output.

    Styles of a filter each, as w++ makes them, are encoded by their mean. Source: Wu et al. 2021, "StyleSpace
    Analysis".
    """

    def encode(self, inputs: GeneratorInputs) -> Variables:
        whole = self.whole(inputs).items()
        return {layer: (style.mean(dim=1) if style.ndim == 3 else style).detach().clone() for layer, style in whole}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        plain = self.plain(inputs)
        return inputs.replace(styles={ADDS + layer: variables[layer] - style for layer, style in plain.items()})


class WPlusPlus(Styled):
    """W++: one w for every filter of every convolution, [B,O,C], and one for every layer to colours, [B,1,C].

    Styles that no w makes are encoded by the nearest that one makes. Source: Poirier-Ginter and Lalonde 2023, "Robust
    Unsupervised StyleGAN Image Restoration", section 3.2; its layers to colours have a w for each channel.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        self.rows = generator.layers
        self.filters = dict.fromkeys(self.rows, 1) | {
            layer: generator.tunable[weight][0] for layer, weight in generator.convolutions.items()
        }
        # styles are affine in w: exactly what the difference of two of them is, gains included
        self.matrices = {layer: _matrix(generator, layer) for layer in self.rows}
        self.inverses = {layer: torch.linalg.pinv(matrix.cpu().double()) for layer, matrix in self.matrices.items()}

    def encode(self, inputs: GeneratorInputs) -> Variables:
        plain, whole, found = self.plain(inputs), self.whole(inputs), {}
        for layer, row in self.rows.items():
            added = whole[layer] - (plain[layer] if whole[layer].ndim == 2 else plain[layer][:, None])
            added = added if added.ndim == 3 else added[:, None]  # [B,1 or O,I]
            if self.filters[layer] == 1:
                added = added.mean(dim=1, keepdim=True)
            moved = added @ self.inverses[layer].to(added).T  # [B,1 or O,C]
            found[layer] = (inputs.ws[:, row, None].detach() + moved).expand(-1, self.filters[layer], -1).clone()
        return found

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        styles = {}
        for layer, row in self.rows.items():
            moved = variables[layer] - inputs.ws[:, row, None].detach()
            added = moved @ self.matrices[layer].to(moved).T  # [B,O,I]
            styles[ADDS + layer] = added if self.filters[layer] > 1 else added[:, 0]
        return inputs.replace(styles=styles)


@torch.no_grad()
def _matrix(generator: Generator, layer: str) -> Tensor:
    """The matrix [I,C] by which a layer's style follows its w: the affine's weight with its learning-rate gain."""
    affine = generator.affine(layer)
    w = torch.stack([generator.w_avg, generator.w_avg + affine[0]])
    first, second = generator.styles(GeneratorInputs(generator.broadcast(w)))[layer]
    expected = affine @ affine[0]
    gain = ((second - first) @ expected) / (expected @ expected).clamp_min(1e-30)
    return affine.detach() * gain
