"""Peak memory of tuning one image, in a process of its own: above what the loaded networks occupy.

    python benchmarks/tuning_memory.py --network portraits --recipe pti.toml --steps 5

Prints bytes, or null where the system does not tell (the resident set is read from /proc).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


def peak_mib(network: str, recipe: object, device: str, steps: int = 5) -> float | None:
    """MiB that `recipe` needs for one image beyond the loaded networks, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(recipe.dump(), encoding="utf-8")
        command = [sys.executable, __file__, "--network", network, "--recipe", path, "--device", device]
        done = subprocess.run([*map(str, command), "--steps", str(steps)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"measuring the memory of {recipe.name!r} failed:\n{done.stderr[-2000:]}")
    peak = json.loads(done.stdout.splitlines()[-1])
    return None if peak is None else peak / MIB


def _resident(key: str) -> int | None:
    if not STATUS.exists():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _now(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if STATUS.exists():
        RESET.write_text("5")  # the high-water mark begins anew
    return _resident("VmRSS")


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


@click.command()
@click.option("--network", required=True)
@click.option("--recipe", required=True)
@click.option("--steps", default=5, type=click.IntRange(min=1))
@click.option("--device", default="cpu")
def main(network: str, recipe: str, steps: int, device: str) -> None:
    """Print the peak in bytes."""
    from dataclasses import replace

    from latentopt.checkpoints.networks import load_generator
    from latentopt.devices import choose_device
    from latentopt.inverting.batch import Batch
    from latentopt.loop.building import build_problem
    from latentopt.recipe.recipe import Recipe
    from latentopt.types import GeneratorInputs

    generator = load_generator(network, device=choose_device(device))
    asked = Recipe.load(recipe)
    asked = replace(asked, stages=tuple(replace(stage, steps=steps) for stage in asked.stages))
    start = GeneratorInputs(generator.broadcast(generator.w_avg[None]).clone())
    with torch.no_grad():
        target = generator.synthesis(start).clamp(-1, 1)
        kept = build_problem(generator, asked.stages[0], target, (0,), start=start)  # loads the terms' networks
    before = _now(generator.device)
    for _ in Batch(generator, asked, target, ("one",), (0,), inputs=start).steps():
        pass
    peak = _peak(generator.device)
    del kept
    click.echo(json.dumps(None if before is None else peak - before))


if __name__ == "__main__":
    main()
