"""What the bundled directions do, as the judge reads it: `python benchmarks/directions.py`; about five minutes on one core.

Fresh samples of a generator are moved along each direction by -2 to 2 standard deviations. Written are
results/directions.md (response of the named attribute, drift of the others) and results/directions.png.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.editing.files import find_directions
from latentopt.editing.labels import seed_codes
from latentopt.editing.layers import layers_text
from latentopt.editing.pictures import direction_sheet
from latentopt.editing.scaling import sample_codes
from latentopt.evaluation.judge import Judge, load_judge
from latentopt.generators.checkpoints import load_generator
from latentopt.protocols import Generator
from latentopt.storage import write_text
from latentopt.types import GeneratorInputs

RESULTS = Path(__file__).resolve().parent / "results"
SEED, REFERENCE_SEED = 77, 78  # other samples than the directions were found on
STRENGTHS = (-2, -1, 1, 2)
SHOWN = ("yaw", "glasses", "beard", "hair_length", "hair_tone", "skin_tone", "light_direction", "shirt_blue")
SHEET_SEED = 19


@torch.no_grad()
def read(generator: Generator, judge: Judge, ws: Tensor) -> Tensor:
    """Attributes [n,A] of the pictures that ws [n,L,C] draw; binary ones as logits, which do not saturate."""
    pictures = (generator.synthesis(GeneratorInputs(part)).clamp(-1, 1) for part in ws.split(50))
    return torch.cat([judge(picture)[0][:, : len(judge.config.attributes)] for picture in pictures])


def measure(
    generator: Generator, judge: Judge, direction: Direction, start: GeneratorInputs, plain: Tensor, std: Tensor
) -> Tensor:
    """Mean change of every attribute [4,A] at STRENGTHS, in standard deviations of the samples."""
    moved = [read(generator, judge, direction.edit(start, strength).ws) - plain for strength in STRENGTHS]
    return torch.stack([change.mean(dim=0) / std for change in moved])


def rows(generator: Generator, judge: Judge, samples: int) -> Iterator[str]:
    names = judge.config.attributes
    start = GeneratorInputs(generator.broadcast(sample_codes(generator, SEED, samples)))
    plain = read(generator, judge, start.ws)
    std = read(generator, judge, generator.broadcast(sample_codes(generator, REFERENCE_SEED, 10 * samples))).std(dim=0)
    for direction in find_directions(generator).values():
        change = measure(generator, judge, direction, start, plain, std)
        own = names.index(direction.name)
        slope = (change[2] - change[1]) / 2  # a standard deviation of strength, at +-1
        others = torch.arange(len(names)) != own
        drift = slope[others].norm().item()
        most = (slope.abs() * others).topk(2).indices.tolist()
        drifting = ", ".join(f"{names[k]} {slope[k]:+.2f}" for k in most)
        curve = " | ".join(f"{x:+.2f}" for x in change[:, own].tolist())
        yield (
            f"| {direction.name} | {layers_text(direction.layers)} | {direction.score:.2f} | {curve} | "
            f"{slope[own]:.2f} | {drift:.2f} | {drifting} |"
        )


@click.command()
@click.option("--samples", default=32, show_default=True, help="Pictures moved along each direction.")
@click.option("--network", "networks", multiple=True, default=("portraits", "portraits-wrangan"), show_default=True)
def main(samples: int, networks: tuple[str, ...]) -> None:
    """Measure the bundled directions of NETWORKS."""
    judge = load_judge("portraits")
    text = [HEAD.format(samples=samples, reference=10 * samples)]
    for name in networks:
        generator = load_generator(name)
        text += [f"\n## {name}\n", TABLE_HEAD, *rows(generator, judge, samples)]
        click.echo("\n".join(text[-19:]))
    write_text(RESULTS / "directions.md", "\n".join(text) + "\n")
    generator = load_generator(networks[0])
    directions = find_directions(generator)
    shown = [directions[name] for name in SHOWN if name in directions]
    direction_sheet(generator, shown, seed_codes(generator, [SHEET_SEED], 0.8), RESULTS / "directions.png")


HEAD = """# What the bundled directions do

`python benchmarks/directions.py`: {samples} fresh samples moved along each direction. Response: mean change of the named
attribute, as the judge reads it, in standard deviations of that attribute over {reference} samples (of the logit, for glasses);
slope: the same for one unit of strength, at +-1. Drift: root of the summed squares of the other 23 attributes' slopes, and
the two that drift most. Accuracy: balanced, on held-out samples, of the tenth with least against the tenth with most."""
TABLE_HEAD = """| direction | rows | accuracy | at -2 | -1 | +1 | +2 | slope | drift | drifting most |
|---|---|---|---|---|---|---|---|---|---|"""

if __name__ == "__main__":
    main()
