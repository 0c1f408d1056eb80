"""The device that is compared with the CPU: CUDA, or what LATENTOPT_TEST_DEVICE names (`cpu` tries the tests
themselves).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

NAME = os.environ.get("LATENTOPT_TEST_DEVICE", "cuda")
THERE = NAME != "cuda" or torch.cuda.is_available()
DEVICE = torch.device(NAME if THERE else "cpu")
MARKS = [pytest.mark.cuda, pytest.mark.skipif(not THERE, reason="no CUDA device")]
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """float32 without TF32, which keeps ten bits alone."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def on(x: Any) -> Any:
    """The same on the device: tensors, collections of them, and copies of networks and inputs."""
    if isinstance(x, Tensor):
        return x.to(DEVICE)
    if isinstance(x, Mapping):
        return {name: on(part) for name, part in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(on(part) for part in x)
    if isinstance(x, torch.nn.Module):
        return copy.deepcopy(x).to(DEVICE)
    return x.to(DEVICE) if hasattr(x, "to") else x


def tensors(x: Any) -> list[Tensor]:
    """All tensors within."""
    if isinstance(x, Tensor):
        return [x]
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def assert_alike(here: Any, there: Any, **tolerance: float) -> None:
    """What the CPU and the device found; the latter lies on the device."""
    one, other = tensors(here), tensors(there)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert b.device.type == DEVICE.type
        torch.testing.assert_close(b.cpu(), a, **(CLOSE | tolerance), equal_nan=True)


def numbers(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, the same everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
