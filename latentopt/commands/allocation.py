"""Memory that is freed stays with the process: optimising asks for the same blocks again in every step."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import MutableMapping

SETTINGS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}  # variable: its number in glibc's mallopt
LARGEST = (1 << 31) - 1
LARGEST_MAPPED = 1 << 30  # bytes; larger blocks go back to the system at once


def keep_freed_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell the C library (glibc, on Linux) not to give blocks of up to 1 GiB back to the system between steps; programs
    that are begun from here do the same. Whoever has set one of these variables has the say.

    It would ask for them again in the next step, and the system clears every page of them first: a sixth of the time
    of large batches, and more in containers where that is slow.
    """
    if sys.platform != "linux" or any(name in environment for name in SETTINGS):
        return
    if not hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):  # another C library
        return
    for (name, number), most in zip(SETTINGS.items(), (LARGEST, LARGEST_MAPPED), strict=True):
        if libc.mallopt(number, most):
            environment[name] = str(most)
