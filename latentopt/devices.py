"""Choosing the device by name, when the work starts."""

from __future__ import annotations

import math
import re
import sys

import torch

from latentopt.errors import UsageError


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA, then MPS, then the CPU), `cpu`, `cuda`, `cuda:<index>` or `mps`.

    Raises UsageError for another word and for a device that this machine or this build of torch does not have.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    if name == "cpu":
        return torch.device(name)
    if name == "mps":
        return _there(name, torch.backends.mps.is_available(), "this torch sees no Apple GPU")
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return _there(name, int(match[1] or 0) < count, f"this torch sees {count} CUDA device{'s' * (count != 1)}")
    raise UsageError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:<index>, mps")


def _there(name: str, there: bool, reason: str) -> torch.device:
    if not there:
        raise UsageError(f"device {name!r} is not available: {reason}; use --device cpu or --device auto")
    return torch.device(name)


def peak_memory(device: torch.device) -> float:
    """The most memory ever in use, in MB: on the GPU, or (CPU) by the whole process; NaN where nobody counts it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kilobytes elsewhere
