"""What the benchmarks share: markdown tables, and the facts that belong below every one of them."""

from __future__ import annotations

import datetime
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from latentopt.files.storage import write_text
from latentopt.results.manifest import versions


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers are written by `cell`."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows)])


def cell(value: object) -> str:
    """Four significant digits for a number with a fraction, blank for what is not known."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine(device: torch.device) -> str:
    """The processor that did the work, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def machine_name(device: torch.device) -> str:
    """The same for the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", machine(device).lower()).strip("-")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def provenance(device: torch.device, seed: int | str, **facts: object) -> str:
    """Command, seed, machine, versions and date, as lines of markdown; `facts` are added as they are."""
    used = {
        "command": f"`python benchmarks/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`",
        "seed": seed,
        **facts,
        "machine": f"{machine(device)}, {device}, {torch.get_num_threads()} threads, {platform.system()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items() if number != "unknown"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in used.items())


def write_report(path: Path, title: str, *parts: str) -> None:
    """A markdown page, atomically."""
    write_text(path, "\n\n".join([f"# {title}", *parts]) + "\n")
