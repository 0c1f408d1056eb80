"""What `latentopt directions find` does by method, once its options are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latentopt.commands.progress import Progress
from latentopt.editing.direction import Direction
from latentopt.editing.ganalyze import STEPS, find_ganalyze
from latentopt.editing.ganspace import find_ganspace
from latentopt.editing.interfacegan import find_interfacegan
from latentopt.editing.labels import Labelled, folder_labels, read_labels, seed_codes, table_labels
from latentopt.editing.layers import parse_layers
from latentopt.editing.pictures import direction_sheet
from latentopt.editing.sefa import find_sefa
from latentopt.editing.spaces import EditingSpace
from latentopt.errors import UsageError
from latentopt.judge.protocol import judge_name, load_attribute_judge
from latentopt.protocols import Generator
from latentopt.registry import COORDINATES
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM

SHEET_SEED, SHEET_SAMPLES = 4, 2
SHEET_PSI = 0.7


def find_by(method: str, generator: Generator, quiet: bool, **options: Any) -> list[Direction]:
    """The directions that `latentopt directions find` was asked for, by its options."""
    pnorm = None
    if COORDINATES.load(options["space"]).statistics:
        pnorm, _ = given_or_found(PNORM, generator, options["stats"])
    space = EditingSpace(options["space"], generator, pnorm)
    layers = None if options["layers"] is None else parse_layers(options["layers"])
    if layers is not None and max(layers) >= generator.num_ws:
        raise UsageError(f"--layers {options['layers']}: this generator has rows 0 to {generator.num_ws - 1}")
    if method == "sefa":
        return find_sefa(space, components=options["components"], layers=layers)
    if method == "ganspace":
        samples = options["samples"] or 100_000
        with Progress(samples, "ganspace", unit="sample", quiet=quiet) as progress:
            chosen = {"components": options["components"], "samples": samples, "layer": options["layer"]}
            return find_ganspace(space, **chosen, layers=layers, seed=options["seed"], on_progress=progress.advance)
    names = None if options["attributes"] is None else [name.strip() for name in options["attributes"].split(",")]
    if method == "ganalyze":
        return _ganalyze(space, names, layers, quiet, options)
    return _interfacegan(space, names, layers, quiet, options)


def _ganalyze(
    space: EditingSpace, names: list[str] | None, layers: tuple[int, ...] | None, quiet: bool, options: dict[str, Any]
) -> list[Direction]:
    judge = load_attribute_judge(options["judge"], space.generator.device)
    for name in names or judge.attributes:
        if name in judge.binary_attributes:
            click.echo(
                f"{name}: is there or not, so a learned direction may please the judge without drawing it; look at the "
                "sheet, or use --method interfacegan",
                err=True,
            )
    steps = options["steps"] or STEPS
    with Progress(steps * len(names or judge.attributes), "learning", unit="step", quiet=quiet) as progress:
        chosen = {"steps": steps, "seed": options["seed"], "label": options["label"]}
        return find_ganalyze(space, judge, names=names, layers=layers, **chosen, on_progress=progress.advance)


def _interfacegan(
    space: EditingSpace, names: list[str] | None, layers: tuple[int, ...] | None, quiet: bool, options: dict[str, Any]
) -> list[Direction]:
    condition = options["condition"]
    return find_interfacegan(
        _labelled(space, quiet, options),
        space,
        names=names,
        condition=condition if condition in ("none", "all", "entangled") else condition.split(","),
        layers=layers,
        seed=options["seed"],
    )


def _labelled(space: EditingSpace, quiet: bool, options: dict[str, Any]) -> Labelled:
    generator, of_samples = space.generator, (options["trunc"], options["label"])
    if options["folders"]:
        more, less = options["folders"]
        return folder_labels(more, less, generator, options["name"] or more.name, *of_samples)
    if options["labels"]:
        return table_labels(options["labels"], generator, options["run"], *of_samples)
    judge = load_attribute_judge(options["judge"], generator.device)
    samples = options["samples"] or 5000
    codes = space.sample(samples, options["seed"])
    with Progress(samples, "judging", unit="sample", quiet=quiet) as progress:
        about = {"judge": judge_name(judge), "samples": samples}
        return read_labels(
            generator, codes, judge, judge.attributes, judge.binary_attributes, on_progress=progress.advance, **about
        )


def draw_sheet(generator: Generator, directions: list[Direction], out: Path) -> Path:
    """Two samples moved along each direction, beside the file `out`."""
    path = out.with_suffix(".png")
    codes = seed_codes(generator, range(SHEET_SEED, SHEET_SEED + SHEET_SAMPLES), SHEET_PSI)
    direction_sheet(generator, directions, codes, path)
    return path
