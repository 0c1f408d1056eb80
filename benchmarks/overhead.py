"""What does the loop itself cost in the stages that tune weights, beside drawing and measuring?

    python benchmarks/overhead.py
    python benchmarks/overhead.py --n 8 --recipes fast-tune

Each recipe inverts fresh portraits as `latentopt tune` does, with a profile. Of its stages that move weights all time
counts from the end of the stage before to the stage's last step, but for what makes the stage ready; the share outside
is what is neither the generator's nor the loss terms'. Writes `overhead-<machine>.md` into the folder of the results.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import torch
from tables import machine_name, markdown_table, provenance, write_report

from latentopt.checkpoints.networks import load_generator
from latentopt.commands.progress import Progress
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.devices import Profile
from latentopt.inverting.events import Progressed
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import tensor_items
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.stage import Stage

MEASURING = ("generator", "terms")
READY = "networks and start"
FIRST = 100  # of the portraits: none that settings were chosen by
CAPS = {"pti": 40, "weights": 40, "wrangan": 40}  # steps of a stage that has hundreds alike


@dataclass
class Spent:
    """Seconds of a recipe's weight stages by part, and their steps."""

    parts: Counter = field(default_factory=Counter)
    steps: int = 0

    def row(self) -> list[float]:
        ready, whole = self.parts[READY], sum(s for part, s in self.parts.items() if part != READY)
        shares = [100 * self.parts[part] / whole for part in (*MEASURING, "optimizer", "records")]
        return [
            self.steps,
            1000 * whole / self.steps,
            *shares,
            100 - shares[0] - shares[1],
            1000 * ready / self.steps,
        ]


def tunes(stage: Stage) -> bool:
    """Whether the stage moves weights."""
    names = {space["name"] for space in stage.optimize}
    return bool(names & {"weights", "epsilon", "lowrank"})


def measure(generator: Generator, recipe: Recipe, targets: torch.Tensor) -> Spent:
    """All targets in one batch."""
    spent, profile, before = Spent(), Profile(), Counter()
    names = [str(i) for i in range(len(targets))]
    for event in Inverter(generator, recipe, profile=profile).invert(tensor_items(targets, names, None)):
        if not isinstance(event, Progressed):
            continue
        profile.switch(profile.now)
        now = Counter(profile.seconds)
        if tunes(recipe.stages[event.stage]):
            spent.parts += now - before
            spent.steps += 1
        before = now
    return spent


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=16, show_default=True, type=click.IntRange(min=1), help="Batches of each recipe and size.")
@click.option("--recipes", default="fast-tune,pti,weights,wrangan", show_default=True)
@click.option("--batches", default="1,8", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(network: str, n: int, recipes: str, batches: str, out: Path) -> None:
    """Measure the share of the loop in stages that tune weights."""
    generator = load_generator(network).requires_grad_(False)
    rows = []
    cases = [(name, int(size)) for name in recipes.split(",") for size in batches.split(",")]
    with Progress(len(cases), "measuring", unit="case") as progress:
        for name, size in cases:
            recipe, cap = Recipe.load(name), CAPS.get(name)
            stages = (replace(s, batch=size, steps=min(s.steps, cap or s.steps)) for s in recipe.stages)
            recipe, total = replace(recipe, stages=tuple(stages)), Spent()
            for i in range(1 if cap else n):
                seeds = TEST_SEEDS[FIRST + i * size : FIRST + (i + 1) * size]
                found = measure(generator, recipe, portraits(seeds, generator.resolution)[0])
                total.parts, total.steps = total.parts + found.parts, total.steps + found.steps
            rows.append([name, size, *total.row()])
            progress.advance(1, recipe=name, batch=size)
    columns = ["recipe", "batch", "steps", "ms a step", "generator, %", "terms, %", "optimizer, %", "records, %"]
    text = markdown_table([*columns, "outside, %", "made ready, ms a step"], rows)
    facts = provenance(
        generator.device, f"portraits TEST_SEEDS[{FIRST}:]", network=generator.name, threads=torch.get_num_threads()
    )
    about = "Stages that move weights. outside: all but the generator and the terms (their gradients included)."
    write_report(
        out / f"overhead-{machine_name(generator.device)}.md",
        "The loop's share in stages that tune weights",
        text,
        about,
        facts,
    )
    click.echo(text)


if __name__ == "__main__":
    main()
