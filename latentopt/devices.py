"""Choosing the device by name, when the work starts; what the work takes of its time and memory."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from latentopt.errors import UsageError

T = TypeVar("T")


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


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is imitated, more slowly than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return True
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # from some torch on
    return any(there for name, there in known.items() if name.endswith("bf16"))


def free_memory(device: torch.device) -> float | None:
    """Bytes that may still be taken on the device, by a container's limit too; None where the system does not say."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    free = [bytes_ for bytes_ in (_free_in_system(), _free_in_container()) if bytes_ is not None]
    return min(free, default=None)


def _free_in_system() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _free_in_container() -> float | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return float(limit) - float(used) + float(statistics.get("inactive_file", 0))  # files' pages are given back
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return None


def normal(*shape: int, divisor: float = 1.0) -> torch.Tensor:
    """Standard normal numbers over `divisor`, on the device at hand; on `meta`, where shapes alone count, none are
    drawn: any arithmetic there makes torch load its compiler, which takes longer than a small inversion.
    """
    x = torch.empty(shape)
    return x if x.is_meta else x.normal_().div_(divisor)


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


@dataclass
class Profile:
    """Seconds of a run by part; each moment counts once: for the innermost part that it falls into, or as `rest`.

    Not `on`, it measures nothing and costs nothing. On a GPU every change of part waits for it, which slows the whole.
    """

    on: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    now: str = "rest"
    since: float = field(default_factory=time.perf_counter)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside belongs to `name`."""
        outer = self.now
        self.switch(name)
        try:
            yield
        finally:
            self.switch(outer)

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; what it takes to get each belongs to `name`, not what is done with it."""
        waiting = iter(items)
        while True:
            with self.part(name):
                found = next(waiting, None)
            if found is None:
                return
            yield found

    def switch(self, name: str) -> None:
        """From now on time belongs to `name`, until the part around ends."""
        if not self.on:
            return
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self.now] = self.seconds.get(self.now, 0.0) + now - self.since
        self.now, self.since = name, now

    def table(self) -> list[tuple[str, float, float]]:
        """(part, seconds, share of all), the largest first."""
        self.switch(self.now)
        whole = sum(self.seconds.values()) or 1.0
        return sorted(((name, s, s / whole) for name, s in self.seconds.items()), key=lambda row: -row[1])
