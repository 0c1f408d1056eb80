"""What the bundled directions do, as judges read it: `python benchmarks/directions.py`; about ten minutes on one core.

Fresh samples of a generator are moved by -2 to 2 along each direction, and along the normals of hyperplanes that
InterFaceGAN finds for the same attributes, with its defaults, in the same rows. Written are results/directions.md
(response of the named attribute, drift of the others) and results/directions.png.

The bundled directions were learned from the gradient of the bundled judge, which might be fooled. `--second` names
another judge, trained from other first weights on other orders of portraits, that reads the same pictures:

    latentopt train judge --steps 2200 --seed 3 --outdir work/second
    python benchmarks/directions.py --second work/second/judge.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import torch
from tables import cell, markdown_table, provenance, write_report
from torch import Tensor

from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import find_directions
from latentopt.editing.interfacegan import find_interfacegan
from latentopt.editing.labels import read_labels, seed_codes
from latentopt.editing.layers import layers_text
from latentopt.editing.pictures import direction_sheet
from latentopt.editing.scaling import sample_codes
from latentopt.editing.spaces import EditingSpace
from latentopt.judge.network import Judge, load_judge
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

SEED, REFERENCE_SEED = 77, 78  # other samples than the directions were found on
STRENGTHS = (-2, -1, 1, 2)
LABELLED = 5000  # samples behind a hyperplane, as latentopt directions find has it
SHOWN = ("yaw", "smile", "glasses", "beard", "hair_length", "hair_tone", "skin_tone", "light_direction")
SHEET_SEED = 19


class Readings:
    """What one judge reads of moved samples, in deviations of that attribute over other samples."""

    def __init__(self, generator: Generator, judge: Judge, samples: int) -> None:
        self.generator, self.judge = generator, judge
        self.start = GeneratorInputs(generator.broadcast(sample_codes(generator, SEED, samples)))
        self.plain = self._read(self.start.ws)
        reference = generator.broadcast(sample_codes(generator, REFERENCE_SEED, 10 * samples))
        self.std = self._read(reference).std(dim=0)

    @torch.no_grad()
    def _read(self, ws: Tensor) -> Tensor:
        """Attributes [n,A] of the pictures that ws [n,L,C] draw; binary ones as logits, which do not saturate."""
        pictures = (self.generator.synthesis(GeneratorInputs(part)).clamp(-1, 1) for part in ws.split(50))
        return torch.cat([self.judge(picture)[0][:, : len(self.judge.attributes)] for picture in pictures])

    def change(self, direction: Direction, strengths: Sequence[float] = STRENGTHS) -> Tensor:
        """Mean change of every attribute [S,A] at `strengths`."""
        moved = [self._read(direction.edit(self.start, strength).ws) - self.plain for strength in strengths]
        return torch.stack([change.mean(dim=0) / self.std for change in moved])

    def slope(self, direction: Direction) -> tuple[float, float, Tensor]:
        """Of one unit of strength, at +-1: the named attribute's, the others' (root of summed squares), and all [A]."""
        less, more = self.change(direction, (-1, 1))
        slope = (more - less) / 2
        own = self.judge.attributes.index(direction.name)
        others = torch.arange(len(slope)) != own
        return slope[own].item(), slope[others].norm().item(), slope


def bundled_table(directions: dict[str, Direction], first: Readings, second: Readings | None) -> str:
    rows = []
    for direction in directions.values():
        own, drift, slope = first.slope(direction)
        names = first.judge.attributes
        column = names.index(direction.name)
        curve = [f"{x:+.2f}" for x in first.change(direction)[:, column].tolist()]
        most = [k for k in slope.abs().argsort(descending=True).tolist() if k != column][:2]
        row = [direction.name, layers_text(direction.layers), direction.score, *curve, f"{own:.2f}", f"{drift:.2f}"]
        if second is not None:
            row += [f"{value:.2f}" for value in second.slope(direction)[:2]]
        rows.append([*row, ", ".join(f"{names[k]} {slope[k]:+.2f}" for k in most)])
    seconds = [] if second is None else ["slope, second judge", "drift, second judge"]
    columns = ["direction", "rows", "score", "at -2", "-1", "+1", "+2", "slope", "drift", *seconds, "drifting most"]
    return markdown_table(columns, rows)


def hyperplane_table(directions: dict[str, Direction], first: Readings) -> tuple[str, float, float]:
    """InterFaceGAN's directions beside the bundled ones, and the mean drift for a slope of 1 of both."""
    judge, generator = first.judge, first.generator
    codes = sample_codes(generator, 1, LABELLED)
    labelled = read_labels(generator, codes, judge, judge.attributes, judge.binary_attributes)
    space, rows, ratios = EditingSpace("w", generator), [], []
    for name, direction in directions.items():
        (found,) = find_interfacegan(labelled, space, names=[name], layers=direction.layers)
        (slope, drift, _), (own, others, _) = first.slope(found), first.slope(direction)
        ratios.append([others / own, drift / abs(slope)])
        cells = [f"{x:.2f}" for x in (found.score, slope, drift, ratios[-1][1], own, others, ratios[-1][0])]
        rows.append([name, *cells])
    columns = ["attribute", "accuracy", "slope", "drift", "drift / slope", "bundled: slope", "drift", "drift / slope"]
    own, other = torch.tensor(ratios).median(dim=0).values.tolist()
    return markdown_table(columns, rows), own, other


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--samples", default=64, show_default=True, help="Pictures moved along each direction.")
@click.option("--network", "networks", multiple=True, default=("portraits", "portraits-wrangan"), show_default=True)
@click.option("--second", type=click.Path(path_type=Path), help="Another judge's file.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(samples: int, networks: tuple[str, ...], second: Path | None, out: Path) -> None:
    """Measure the bundled directions of NETWORKS."""
    judge, other = load_judge("portraits"), None if second is None else load_judge(str(second))
    parts = []
    for name in networks:
        generator = load_generator(name)
        directions, first = find_directions(generator), Readings(generator, judge, samples)
        check = None if other is None else Readings(generator, other, samples)
        parts += [f"## {name}", bundled_table(directions, first, check)]
        click.echo(parts[-1])
        if name == networks[0]:
            table, own, hyperplanes = hyperplane_table(directions, first)
            claim = f"Median drift for a slope of 1: {cell(hyperplanes)}, of the bundled directions {cell(own)}."
            parts += [f"## Hyperplanes of {name} (InterFaceGAN, W, {LABELLED} samples)", claim, table]
            click.echo(parts[-1])
    generator = load_generator(networks[0])
    directions = find_directions(generator)
    facts = provenance(
        generator.device,
        f"{SEED}, reference {REFERENCE_SEED}",
        samples=f"{samples}, reference {10 * samples}",
        second_judge="none" if other is None else f"test accuracy of smile {card_figure(second, 'smile')}",
    )
    write_report(out / "directions.md", "What the bundled directions do", MEANING, *parts, facts)
    shown = [directions[name] for name in SHOWN if name in directions]
    direction_sheet(generator, shown, seed_codes(generator, [SHEET_SEED], 0.8), out / "directions.png")


def card_figure(path: Path, attribute: str) -> str:
    """The judge's own test accuracy, of its card."""
    import json

    from latentopt.files.storage import load_tensors

    return str(json.loads(load_tensors(path)[1]["card"])["test_accuracy"][attribute])


MEANING = (
    "Fresh samples moved along each direction. At -2 to 2: mean change of the named attribute, as the judge reads it, "
    "in standard deviations of that attribute over the reference samples (of the logit, for glasses); slope: the same "
    "for one unit of strength, at +-1. Drift: root of the summed squares of the other attributes' slopes, and the two "
    "that drift most. Score: of learned directions (GANalyze) the share of samples, held out, "
    "that change the right way."
)

if __name__ == "__main__":
    main()
