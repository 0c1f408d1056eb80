"""e4e's latent discriminator: tells the mapping's w from an encoder's style codes.

Source: Tov et al. 2021 (e4e), section 5.2, equations 2 and 3, appendix A; the pools as in the authors' code (and in
Shrivastava et al. 2017). Difference from the authors' code, which shows the discriminator row 0 alone: it is shown one
row of each image, drawn at random, so that the expectation over rows is the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

POOL_SIZE = 50


class LatentDiscriminator(nn.Module):
    """An MLP of `layers` linear layers with leaky ReLUs of slope 0.2 between them: w [B,C] -> logits [B,1]."""

    def __init__(self, w_dim: int, layers: int = 4) -> None:
        super().__init__()
        widths = [w_dim] * layers
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(widths, [*widths[1:], 1], strict=True))

    def forward(self, w: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            w = leaky_relu(layer(w), 0.2)
        return self.layers[-1](w)


class CodePool(nn.Module):
    """The last `size` codes or so: half of what is asked for are earlier codes, whose places the new ones take."""

    codes: Tensor
    held: Tensor

    def __init__(self, w_dim: int, size: int = POOL_SIZE) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(size, w_dim))
        self.register_buffer("held", torch.zeros([], dtype=torch.int64))

    def exchange(self, codes: Tensor, rng: torch.Generator) -> Tensor:
        """As many codes as are given, [B,C]: each is kept or, once the pool is full, exchanged with probability 1/2."""
        given = []
        for code in codes:
            if self.held < len(self.codes):
                self.codes[self.held] = code
                self.held += 1
                given.append(code)
                continue
            place = torch.randint(2 * len(self.codes), [], generator=rng, device=rng.device)
            if place < len(self.codes):
                given.append(self.codes[place].clone())
                self.codes[place] = code
            else:
                given.append(code)
        return torch.stack(given)


def random_rows(codes: Tensor, rows: int, rng: torch.Generator) -> Tensor:
    """One of the first `rows` rows of each image's codes, drawn at random: [B,L,C] -> [B,C]."""
    chosen = torch.randint(rows, (len(codes),), generator=rng, device=rng.device)
    return codes[torch.arange(len(codes), device=codes.device), chosen]


def latent_r1_penalty(discriminator: LatentDiscriminator, w: Tensor) -> Tensor:
    """`|d D(w) / d w|^2` of w [B,C], the batch mean (equation 2, without gamma / 2)."""
    w = w.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(w).sum(), w, create_graph=True)
    return gradient.square().sum(dim=1).mean()
