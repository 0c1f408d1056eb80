"""Memory that is freed stays with the process: optimising asks for the same blocks again in every step."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, MutableMapping

MMAP, TRIM, TUNABLES = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
KEPT_BLOCKS = (1 << 30, 1 << 25)  # bytes; glibc before 2.35 takes no more than the second
NEVER = (1 << 31) - 1

Setter = Callable[[int, int], int]


def keep_freed_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell the C library (glibc, on Linux) not to give blocks of up to 1 GiB back to the system between steps; programs
    that are begun from here do the same. Whoever has set one of these variables has the say.

    It would ask for them again in the next step, and the system clears every page of them first: a sixth of the time
    of large batches, and more in containers where that is slow.
    """
    if sys.platform != "linux" or any(name in environment for name in (MMAP, TRIM, TUNABLES)):
        return
    if hasattr(library := ctypes.CDLL(None), "gnu_get_libc_version"):
        environment.update(_kept(library.mallopt))


def _kept(mallopt: Setter) -> dict[str, str]:
    """What was set, by the variables that set it. Either threshold ends glibc's own adjustment of both, so that none is
    set where the first is refused.
    """
    for most in KEPT_BLOCKS:
        if mallopt(M_MMAP_THRESHOLD, most):
            mallopt(M_TRIM_THRESHOLD, NEVER)
            return {MMAP: str(most), TRIM: str(NEVER)}
    return {}
