"""Where the picture lies, as a variable: for generators that draw a move of the picture themselves (StyleGAN3)."""

from __future__ import annotations

import torch
from torch import Tensor

from latentopt.geometry.moves import check_takes_transform, move_matrix, parts_of
from latentopt.protocols import Generator, Parameterization
from latentopt.types import GeneratorInputs, Variables


class Placement(Parameterization):
    """One variable `move` [B,3]: the angle (radians, anticlockwise) and the shift (widths, right and down).

    scale   [B,4]: also the logarithm of how much the picture is enlarged

    A transform that does more than that is encoded by the nearest that does not. Inputs without one lie where the
    generator draws them: all zeros.
    """

    owns = {"transform"}
    examples = ({}, {"scale": True})

    def __init__(self, generator: Generator, *, scale: bool = False) -> None:
        check_takes_transform(generator)
        self.scale = scale

    def encode(self, inputs: GeneratorInputs) -> Variables:
        if inputs.transform is None:
            return {"move": inputs.ws.new_zeros(len(inputs), 4 if self.scale else 3)}
        angle, shift, log_scale = parts_of(inputs.transform.detach().expand(len(inputs), 3, 3))
        parts = [angle[:, None], shift, log_scale[:, None]]
        return {"move": torch.cat(parts if self.scale else parts[:2], dim=1)}

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        move = variables["move"]
        log_scale: Tensor | None = move[:, 3] if self.scale else None
        return inputs.replace(transform=move_matrix(move[:, 0], move[:, 1:3], log_scale))
