"""Who holds a claim: a process of a machine, and whether it is still there, as far as that can be told from here."""

from __future__ import annotations

import os
import socket
import uuid
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """This machine since its start, and the processes that see one another: two containers are two."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 (a link of a kind that Path follows not)
    except OSError:  # not Linux
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def owner() -> str:
    """This process."""
    return f"{machine()} {os.getpid()} {_started(os.getpid())}"


def is_gone(other: str) -> bool:
    """Whether the process is known to have ended; one of another machine never is."""
    place, _, rest = other.partition(" ")
    number, _, started = rest.partition(" ")
    if place != machine() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _started(int(number)) != started


def _started(number: int) -> str:
    """When a process began, which tells it from a later one of its number; "ended" for one that nobody has waited for
    yet; "" where the system does not say.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
