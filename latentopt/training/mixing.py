"""Style mixing: some training pictures get two styles. Source: Karras et al. 2019, section 3.1."""

from __future__ import annotations

import torch
from torch import Tensor


def first_styles(batch: int, num_ws: int, mixing: float, device: torch.device | str = "cpu") -> Tensor:
    """The layers [B,L] of each picture that take its first style: all but, with probability `mixing`, the last ones.

    The styles cross at a random layer. Drawn from torch's own generator of random numbers.
    """
    cutoff = torch.randint(1, num_ws, (batch, 1), device=device)
    cutoff = torch.where(torch.rand(batch, 1, device=device) < mixing, cutoff, num_ws)
    return torch.arange(num_ws, device=device) < cutoff
