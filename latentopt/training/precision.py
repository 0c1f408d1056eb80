"""The arithmetic of a training: what `--precision` says, or what the device at hand is quick in."""

from __future__ import annotations

import torch

from latentopt.devices import computes_in_bfloat16


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """One of PRECISIONS as torch's type. `auto` is bfloat16 where the device computes in it, and float32 elsewhere: a
    processor that has no instructions for bfloat16 imitates them, 7 times slower than float32.
    """
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32


def autocast(device: torch.device, precision: torch.dtype, wanted: bool = True) -> torch.autocast:
    """What runs inside is computed in `precision`; float32 stays as it is."""
    low = wanted and precision != torch.float32
    return torch.autocast(device.type, precision if low else torch.bfloat16, enabled=low)
