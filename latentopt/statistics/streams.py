"""Streams of random numbers: each depends on a seed and on what it is for, on no batch, order or device.

`stream` is for what is new. The others keep the arithmetic that earlier results were made with.
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch


def stream(seed: int, *place: int) -> torch.Generator:
    """The numbers for one `place` of the work with that seed: usually its purpose and an index."""
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def step_stream(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """The numbers of one step of an optimisation for the image with that seed."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) ^ purpose) % (1 << 63))


def named_stream(name: str) -> torch.Generator:
    """The numbers that belong to a name, such as a weight's, whatever the seed."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def image_seed(seed: int, key: str) -> int:
    """The seed of one image: a function of the run's seed and the image's key, not of order or companions."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7], "big")
