"""Directions by method, as they are asked for in words: the work of `latentopt directions find`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

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

ShowProgress = Callable[[int, str, str], AbstractContextManager[Callable[[int], object]]]
"""(total, label, unit) -> a context whose value is called with how many more are done: a progress bar, for one."""


def no_progress(total: int, label: str, unit: str) -> AbstractContextManager[Callable[[int], object]]:
    """Shows nothing."""
    return nullcontext(lambda count: None)


def find_by(
    generator: Generator,
    method: str,
    *,
    space: str = "w",
    layers: str | None = None,
    samples: int | None = None,
    judge: str = "portraits",
    labels: Path | None = None,
    folders: tuple[Path, Path] | None = None,
    run: Path | None = None,
    trunc: float = 0.7,
    attributes: Sequence[str] | None = None,
    name: str | None = None,
    condition: str = "entangled",
    steps: int | None = None,
    components: int = 10,
    layer: str | None = None,
    stats: Path | None = None,
    label: int = 0,
    seed: int = 0,
    watch: ShowProgress = no_progress,
    on_note: Callable[[str], object] = lambda text: None,
) -> list[Direction]:
    """Directions by `interfacegan`, `ganalyze`, `ganspace` or `sefa`.

    The options are those of `latentopt directions find`. watch: shows progress; on_note: is told what a user should
    know. Raises UsageError for what cannot be meant, StatisticsError where the space's statistics are missing.
    """
    pnorm = None
    if COORDINATES.load(space).statistics:
        pnorm, _ = given_or_found(PNORM, generator, stats)
    where = EditingSpace(space, generator, pnorm)
    rows = None if layers is None else parse_layers(layers)
    if rows is not None and max(rows) >= generator.num_ws:
        raise UsageError(f"--layers {layers}: this generator has rows 0 to {generator.num_ws - 1}")
    if method == "sefa":
        return find_sefa(where, components=components, layers=rows)
    if method == "ganspace":
        drawn = samples or 100_000
        chosen: dict[str, Any] = {
            "components": components,
            "samples": drawn,
            "layer": layer,
            "layers": rows,
            "seed": seed,
        }
        with watch(drawn, "ganspace", "sample") as advance:
            return find_ganspace(where, **chosen, on_progress=advance)
    if method == "ganalyze":
        reader = load_attribute_judge(judge, generator.device)
        for attribute in attributes or reader.attributes:
            if attribute in reader.binary_attributes:
                on_note(
                    f"{attribute}: is there or not, so a learned direction may please the judge without drawing it; "
                    "look at the sheet, or use --method interfacegan"
                )
        chosen = {"names": attributes, "layers": rows, "steps": steps or STEPS, "seed": seed, "label": label}
        with watch((steps or STEPS) * len(attributes or reader.attributes), "learning", "step") as advance:
            return find_ganalyze(where, reader, **chosen, on_progress=advance)
    if method != "interfacegan":
        raise UsageError(f"method {method!r} is not one of interfacegan, ganalyze, ganspace, sefa")
    if folders is not None:
        labelled = folder_labels(*folders, generator, name or folders[0].name, trunc, label)
    elif labels is not None:
        labelled = table_labels(labels, generator, run, trunc, label)
    else:
        labelled = _judged(where, judge, samples or 5000, seed, watch)
    conditions = condition if condition in ("none", "all", "entangled") else condition.split(",")
    return find_interfacegan(labelled, where, names=attributes, condition=conditions, layers=rows, seed=seed)


def _judged(space: EditingSpace, judge: str, samples: int, seed: int, watch: ShowProgress) -> Labelled:
    generator, reader = space.generator, load_attribute_judge(judge, space.generator.device)
    codes = space.sample(samples, seed)
    about: dict[str, Any] = {"judge": judge_name(reader), "samples": samples}
    with watch(samples, "judging", "sample") as advance:
        names, binary = reader.attributes, reader.binary_attributes
        return read_labels(generator, codes, reader, names, binary, on_progress=advance, **about)


def draw_sheet(generator: Generator, directions: list[Direction], out: Path) -> Path:
    """Two samples moved along each direction, beside the file `out`."""
    path = out.with_suffix(".png")
    codes = seed_codes(generator, range(SHEET_SEED, SHEET_SEED + SHEET_SAMPLES), SHEET_PSI)
    direction_sheet(generator, directions, codes, path)
    return path
