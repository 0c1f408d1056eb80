"""How fast is the loop? Time of one step against a plain loop of the kind that every paper's repository has.

    python benchmarks/speed.py
    python benchmarks/speed.py --device cuda --compile

The plain loop: one image, float32, contiguous tensors, the style multiplied into one weight an image (a grouped
convolution), torch's Adam. Both loops draw with the same weights and take the same loss. The cases take turns in every
repeat, so that a slower minute of the machine falls on all of them; ratios are taken within a repeat.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import click
import torch
import torch.nn.functional as F
from tables import machine_name, markdown_table, provenance, write_report
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentopt.checkpoints.networks import load_generator
from latentopt.commands.progress import Progress
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.devices import choose_device
from latentopt.generators import layers
from latentopt.generators.ops import modulated_conv2d
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.inverting.batch import Batch
from latentopt.recipe.recipe import Recipe
from latentopt.terms.perceptual import Perceptual
from latentopt.types import GeneratorInputs, View

RECIPE = "i2s"  # W+, perceptual and l2: the loop with nothing in the way
WARM_UP = 3
TARGET_RATIO, TARGET_BATCH = 3.0, 8


@dataclass(frozen=True)
class Case:
    """One way to run: a batch in a precision; `plain` is the loop that ours is measured against."""

    batch: int
    dtype: torch.dtype
    compiled: bool = False
    plain: bool = False

    @property
    def name(self) -> str:
        precision = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[self.dtype]
        kind = "plain loop" if self.plain else "latentopt, compiled" if self.compiled else "latentopt"
        return f"{kind}, batch {self.batch}, {precision}"


@dataclass(frozen=True)
class Machine:
    """Where it runs, and with which clock."""

    device: torch.device
    network: str

    @property
    def own_clock(self) -> bool:
        """Whether seconds are those of this process alone, which other work on the machine disturbs least."""
        return self.device.type == "cpu" and torch.get_num_threads() == 1

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.own_clock else time.perf_counter()

    def targets(self, batch: int) -> Tensor:
        return portraits(TEST_SEEDS[:batch], self.generator().resolution)[0].to(self.device)  # [B,3,H,W]

    def generator(self) -> StyleGAN2:
        return load_generator(self.network, device=self.device)


def grouped(x: Tensor, weight: Tensor, styles: Tensor, *args: object, **options: object) -> Tensor:
    """The modulated convolution with a weight of its own for every image, as the papers' code has it."""
    return modulated_conv2d(x, weight.expand(len(x), *weight.shape), styles, *args, **options)


def plain_steps(place: Machine) -> Iterator[Tensor]:
    """The plain loop: loss after each step."""
    generator, target = place.generator(), place.targets(1)
    perceptual = Perceptual(generator, target)
    w = generator.broadcast(generator.w_avg[None]).clone().requires_grad_()  # [1,L,C]
    optimizer = torch.optim.Adam([w], lr=0.02)
    while True:
        with patch.object(layers, "modulated_conv2d", grouped):
            image = generator.synthesis(GeneratorInputs(w), "const")
            loss = perceptual(View(image, target, GeneratorInputs(w), {}, 0.0, None)) + F.mse_loss(image, target)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        yield loss


def loop_steps(place: Machine, case: Case) -> Iterator[object]:
    """The loop of latentopt as `invert` runs it."""
    generator = place.generator().set_precision(case.dtype)
    if case.dtype != torch.float32:
        generator.set_memory_format(torch.channels_last)
    if case.compiled:
        generator.synthesis.compile()
    recipe = Recipe.load(RECIPE)
    recipe = replace(recipe, stages=(replace(recipe.stages[0], steps=10**9, batch=case.batch),))
    keys = tuple(str(i) for i in range(case.batch))
    run = Batch(generator, recipe, place.targets(case.batch), keys, tuple(range(case.batch)))
    return run.steps()


def steps_of(place: Machine, case: Case) -> Iterator[object]:
    """Endless steps of a case, warmed up."""
    steps = plain_steps(place) if case.plain else loop_steps(place, case)
    for _ in range(WARM_UP):
        next(steps)
    return steps


def flops(steps: Iterator[object]) -> int:
    """Floating-point operations of one step: convolutions and matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        next(steps)
    return counter.get_total_flops()


def convolution_peak(place: Machine, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few large 3x3 convolutions, forward: what this machine can do, in one kernel."""
    large = place.device.type == "cuda"
    best = 0.0
    for channels, size in ((512, 64), (256, 128)) if large else ((128, 32), (256, 16)):
        batch = 32 if large else 4
        x = torch.randn(batch, channels, size, size, device=place.device, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, device=place.device, dtype=dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            a, b = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
            with torch.no_grad():
                seconds = min(timed(place, lambda a=a, b=b: F.conv2d(a, b, padding=1), 4) for _ in range(6))
            best = max(best, 2 * 9 * channels**2 * size**2 * batch / seconds)
    return best


def timed(place: Machine, work: Callable[[], object], times: int) -> float:
    """Seconds of one call, over `times` of them."""
    started = place.now()
    for _ in range(times):
        work()
    return (place.now() - started) / times


def peak_memory(place: Machine, case: Case) -> float | None:
    """MiB that the steps need: the GPU's own count, or what a fresh process grows by, networks and code included."""
    if place.device.type == "cuda":
        return _peak_cuda(place, case)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_process, (place, case, torch.get_num_threads()))


def _peak_cuda(place: Machine, case: Case) -> float:
    steps = steps_of(place, case)
    torch.cuda.reset_peak_memory_stats(place.device)
    before = torch.cuda.memory_allocated(place.device)
    next(steps)
    return (torch.cuda.max_memory_allocated(place.device) - before) / 2**20


def _peak_process(place: Machine, case: Case, threads: int) -> float | None:
    torch.set_num_threads(threads)
    place.generator(), place.targets(1)  # libraries are loaded
    before = _resident("VmRSS")
    next(steps_of(place, case))
    return None if before is None else _resident("VmHWM") - before


def _resident(key: str) -> float | None:
    """MiB of this process in memory now (VmRSS) or at most (VmHWM); None where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return None if found is None else int(found[1]) / 1024


def measure(place: Machine, cases: list[Case], repeats: int, seconds: float) -> dict[Case, list[float]]:
    """Seconds a step, `repeats` times for each case, the cases taking turns."""
    running = {case: steps_of(place, case) for case in cases}
    counts = {}
    for case, steps in running.items():
        one = timed(place, steps.__next__, 1)
        counts[case] = max(1, round(seconds / one))
    taken: dict[Case, list[float]] = {case: [] for case in cases}
    with Progress(repeats * len(cases), "timing", unit="case") as progress:
        for _ in range(repeats):
            for case, steps in running.items():
                taken[case].append(timed(place, steps.__next__, counts[case]))
                progress.advance(1, case=case.name)
    return taken


def ratios(taken: dict[Case, list[float]], case: Case, plain: Case) -> list[float]:
    """Images a second over the plain loop's, one for each repeat."""
    return [case.batch * p / (plain.batch * s) for s, p in zip(taken[case], taken[plain], strict=True)]


def report(place: Machine, taken: dict[Case, list[float]], memory: bool) -> tuple[str, tuple[float, str]]:
    """The table, and the best ratio at the batch of the target with its case."""
    plain = next(case for case in taken if case.plain)
    peaks = {dtype: convolution_peak(place, dtype) for dtype in {case.dtype: None for case in taken}}
    rows, best = [], (0.0, "")
    for case, seconds in taken.items():
        work = flops(steps_of(place, replace(case, compiled=False)))
        speed = work / median(seconds)
        gain = ratios(taken, case, plain)
        if case.batch == TARGET_BATCH:
            best = max(best, (median(gain), case.name))
        rows.append(
            [
                case.name,
                1e3 * median(seconds),
                case.batch / median(seconds),
                f"{median(gain):.2f} ({min(gain):.2f} to {max(gain):.2f})",
                work / case.batch / 1e9,
                speed / 1e9,
                f"{100 * speed / peaks[case.dtype]:.0f} %",
                peak_memory(place, case) if memory else None,
            ]
        )
    columns = ["case", "ms a step", "images/s", "times plain", "GFLOP an image", "GFLOP/s", "of peak", "memory MiB"]
    lines = [f"{str(dtype).removeprefix('torch.')} {peak / 1e9:.0f} GFLOP/s" for dtype, peak in peaks.items()]
    return markdown_table(columns, rows) + f"\n\nConvolution peak, measured here: {', '.join(lines)}.", best


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--device", default="auto", show_default=True)
@click.option("--batches", default="1,8,32", show_default=True, help="Batch sizes.")
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=1.5, show_default=True, help="Of one case in one repeat.")
@click.option("--compile", "compiled", is_flag=True, help="Also with torch.compile (warms up for minutes).")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure memory (one process a case).")
@click.option("--threads", type=click.IntRange(min=1), help="On the CPU; torch's own choice if not given.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str,
    device: str,
    batches: str,
    repeats: int,
    seconds: float,
    compiled: bool,
    memory: bool,
    threads: int | None,
    out: Path,
) -> None:
    """Time one step of the loop for batches and precisions, against a plain loop."""
    if threads:
        torch.set_num_threads(threads)
    place = Machine(choose_device(device), network)
    sizes = [int(size) for size in batches.split(",")]
    cases = [Case(1, torch.float32, plain=True)]
    for dtype in (torch.float32, torch.bfloat16):
        cases += [Case(size, dtype) for size in sizes]
        cases += [Case(size, dtype, compiled=True) for size in sizes if compiled]
    text, (best, fastest) = report(place, measure(place, cases, repeats, seconds), memory)
    held = "held" if best >= TARGET_RATIO else "NOT held"
    expected = (
        f"Expected: at least {TARGET_RATIO:g} times the plain loop's images/s at batch {TARGET_BATCH}: "
        f"{held} ({best:.2f}: {fastest})."
    )
    clock = "CPU seconds of this process (one thread)" if place.own_clock else "wall clock"
    allocator = (
        " ".join(f"{key}={value}" for key, value in os.environ.items() if key.startswith("MALLOC_")) or "default"
    )
    facts = provenance(
        place.device, "targets TEST_SEEDS", recipe=RECIPE, repeats=repeats, clock=clock, allocator=allocator
    )
    path = out / f"speed-{machine_name(place.device)}.md"
    write_report(path, "Speed of the loop", text, expected, MEANING, facts)
    click.echo(f"{text}\n\n{expected}\nwritten to {path}")


MEANING = (
    "Medians over the repeats; `times plain` is the ratio of images/s within a repeat, with its range. A step is "
    "forward, backward, update, and the loop's own records. FLOPs count convolutions and matrix products. Memory on a "
    "GPU is what a step adds to the loaded networks, on the CPU what a fresh process grows by, "
    "networks and kernels included."
)


if __name__ == "__main__":
    main()
