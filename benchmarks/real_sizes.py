"""What a generator of a real size asks of a machine: time to the first step, time of a step, peak memory.

    python benchmarks/real_sizes.py
    python benchmarks/real_sizes.py --resolution 1024 --batch 1 --low-memory

The generators have the official channel plan (config F: 512 channels, halved from 64 pixels on) and random weights, and
so has the backbone of LPIPS-VGG: neither time nor memory depends on their values. Every case runs in a process of its
own, whose clock starts when the modules are imported: files are read, statistics measured, and everything is checked
within the time to the first step. tune starts from an inversion of one step, which is not counted. With one thread on
a CPU the clock is that of the process, which other work on the machine disturbs least. Where memory is short, large
layers are computed twice, as by --low-memory, and fewer images are drawn at once.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import torch
from tables import markdown_table, provenance, write_report
from torch import nn

import latentopt
from latentopt.api import load_generator, save_generator
from latentopt.commands.progress import Progress
from latentopt.devices import choose_device, peak_memory
from latentopt.generators.stylegan2 import StyleGAN2Config
from latentopt.inverting.events import Event, Progressed
from latentopt.perceptual import features
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe

CHANNEL_BASE, CHANNEL_MAX, DIM = 32768, 512, 512
HEADINGS = ("pixels", "command", "batch", "precision", "low memory", "first step [s]", "a step [s]", "peak [GB]")
RESULTS = Path(__file__).parent / "results" / "real-sizes.md"


@dataclass(frozen=True)
class Case:
    """One run."""

    resolution: int
    command: str
    batch: int
    dtype: str
    low_memory: bool
    steps: int
    device: str

    @property
    def row(self) -> list[object]:
        return [self.resolution, self.command, self.batch, self.dtype, "yes" if self.low_memory else "no"]


def official(resolution: int) -> StyleGAN2Config:
    """Config F of StyleGAN2 at a resolution."""
    blocks = resolution.bit_length() - 2
    return StyleGAN2Config(DIM, DIM, tuple(min(CHANNEL_BASE // (4 << i), CHANNEL_MAX) for i in range(blocks)))


def save_random(resolution: int, path: Path) -> None:
    """A generator of random weights, with its mean of w."""
    torch.manual_seed(0)
    generator = official(resolution).build().eval()
    generator.w_avg.copy_(generator.mapping(torch.randn(4096, DIM)).mean(dim=0).detach())
    save_generator(generator, path)


def random_lpips(backbone: str, weights: str | None) -> nn.Module:
    """The network without its weights, which would be downloaded."""
    import lpips

    torch.manual_seed(1)
    return lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False).eval().requires_grad_(False)


def now(device: torch.device) -> float:
    """Seconds; of this process alone where it has one thread."""
    own = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if own else time.perf_counter()


def measure(case: Case, file: Path) -> tuple[float, float, float]:
    """Seconds to the first step, seconds of a later one, peak memory in GB."""
    features.load_lpips = random_lpips
    device = choose_device(case.device)
    started = now(device)
    generator = load_generator(file, device=device).set_low_memory(case.low_memory)
    if case.dtype != "float32":
        generator.set_precision(getattr(torch, case.dtype)).set_memory_format(torch.channels_last)
    targets = torch.rand(case.batch, 3, case.resolution, case.resolution, generator=torch.Generator().manual_seed(0))
    marks = []

    def mark(event: Event) -> None:
        if isinstance(event, Progressed):
            marks.append(now(device))

    if case.command == "invert":
        latentopt.invert(generator, 2 * targets - 1, recipe("i2s", case.steps, case.batch), on_event=mark)
    else:
        started = tuned(generator, 2 * targets - 1, case, mark)
    times = [b - a for a, b in itertools.pairwise(marks)]
    return marks[0] - started, median(times), peak_memory(device) / 1e3


def tuned(generator: Generator, targets: torch.Tensor, case: Case, mark: object) -> float:
    """Tune from an inversion of one step; returns when that began."""
    first = latentopt.invert(generator, targets, recipe("i2s", 1, case.batch, l2_only=True))
    started = now(generator.device)
    tuning = recipe("weights", case.steps, case.batch)
    latentopt.tune(generator, first, tuning, corruption=0, on_event=mark)
    return started


def recipe(name: str, steps: int, batch: int, l2_only: bool = False) -> Recipe:
    """The recipe with few steps and LPIPS-VGG."""
    found = Recipe.load(name)
    terms = [{"name": "l2"}] if l2_only else [{"name": "perceptual", "net": "lpips-vgg"}, {"name": "l2"}]
    given: dict = {}
    for i in range(len(found.stages)):
        given |= {("stages", i, "steps"): steps, ("stages", i, "batch"): batch, ("stages", i, "terms"): terms}
        given |= {("stages", i, "stop"): None}
    return found.changed(given)


def child(case: Case, file: Path, queue: multiprocessing.Queue) -> None:
    """Run in a process of its own, so that its peak memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        import os

        os.chdir(folder)
        queue.put(measure(case, file))


@click.command()
@click.option("--resolution", "resolutions", type=int, multiple=True, default=(64, 256, 512, 1024), show_default=True)
@click.option("--command", "commands", multiple=True, default=("invert", "tune"), show_default=True)
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8), show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "bfloat16"), show_default=True)
@click.option("--low-memory", is_flag=True, help="Also each case with large layers computed twice.")
@click.option("--steps", default=2, show_default=True, type=click.IntRange(1))
@click.option("--device", default="auto", show_default=True)
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), show_default="results/real-sizes.md")
def main(
    resolutions: tuple[int, ...],
    commands: tuple[str, ...],
    batches: tuple[int, ...],
    dtypes: tuple[str, ...],
    low_memory: bool,
    steps: int,
    device: str,
    out: Path,
) -> None:
    """Measure every case and write the table."""
    lows = (False, True) if low_memory else (False,)
    cases = [
        Case(resolution, command, batch, dtype, low, steps, device)
        for batch, resolution, command, dtype, low in itertools.product(batches, resolutions, commands, dtypes, lows)
    ]
    context, rows = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder, Progress(len(cases), "measuring", unit="case") as progress:
        for case in cases:
            file = Path(folder) / f"g{case.resolution}.safetensors"
            if not file.exists():
                save_random(case.resolution, file)
            queue = context.Queue()
            process = context.Process(target=child, args=(case, file, queue))
            process.start()
            process.join()
            found: list[object] = list(queue.get()) if process.exitcode == 0 else [None, None, None]
            rows.append([*case.row, *found])
            progress.note(f"{case}: {found}")
            progress.advance()
            facts = provenance(choose_device(device), "0 for weights and pictures")
            write_report(out, "Real sizes", markdown_table(HEADINGS, rows), __doc__.split("\n\n", 2)[2], facts)


if __name__ == "__main__":
    main()
