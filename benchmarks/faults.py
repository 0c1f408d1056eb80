"""Damaged files and killed runs in large numbers: what the tests do with a few, done with thousands.

    python benchmarks/faults.py                              # about half an hour
    python benchmarks/faults.py --mutants 20 --kills 10      # a minute or two

A mutant of a good file is read as a command would read and use it; whatever is no error of latentopt's own is a
failure. A run is killed (SIGKILL) or asked to stop (SIGTERM) at a random moment and given again; it has to end as if
nothing had happened, to the bit, with nothing done twice or left behind.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import click
import torch
from tables import markdown_table, provenance, write_report

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from file_kinds import KINDS, World, make_world, outcome
from kills import rounds
from mutants import form_of, mutant

RESULTS = Path(__file__).parent / "results"
FAILED = "failed"


def tried(world: World, name: str, count: int, seed: int) -> tuple[Counter[str], float, list[str]]:
    """What became of so many mutants of a kind, the longest in seconds, and the failures."""
    kind, found, longest, failures = KINDS[name], Counter[str](), 0.0, []
    good = (world.folder / kind.path).read_bytes()
    for i in range(count):
        data, began = mutant(good, form_of(kind.path), Random(f"{seed} {name} {i}")), time.monotonic()
        try:
            found[outcome(world, kind, data)] += 1
        except Exception as error:
            found[FAILED] += 1
            failures.append(f"{name}, mutant {i} of seed {seed}: {type(error).__name__}: {error}")
        longest = max(longest, time.monotonic() - began)
    return found, longest, failures


@click.command()
@click.option("--mutants", default=250, show_default=True, help="Of each kind of file.")
@click.option("--kills", default=120, show_default=True, help="Runs that are killed.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", default="", help="Kinds of files whose names have this in them.")
def main(mutants: int, kills: int, seed: int, only: str) -> None:
    """Print both tables and write them as results/faults.md; exit code 1 where anything failed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world")
        for name in (name for name in KINDS if only in name):
            found, longest, failed = tried(world, name, mutants, seed)
            refused = sum(found.values()) - found["read"] - found[FAILED]
            table.append([name, found.total(), refused, found["read"], found[FAILED], f"{longest:.2f}"])
            click.echo(" | ".join(map(str, table[-1])))
            failures += failed
        (Path(folder) / "kills").mkdir()
        with contextlib.redirect_stdout(io.StringIO()) as told:
            wrong = [text for text in rounds(Path(folder) / "kills", kills, seed) if text]
        failures += [line for line in told.getvalue().splitlines() if "as if nothing" not in line]
    columns = ("kind of file", "mutants", "refused by a clear error", "read", "failed", "longest, s")
    parts = [
        __doc__.partition("\n\n")[2].rpartition("\n\n")[2].strip(),
        markdown_table(columns, table),
        f"Killed or stopped: {kills} runs, of which {len(wrong)} did not end as if nothing had happened.",
        "\n".join(f"- {text}" for text in failures) or "Nothing failed.",
        provenance(torch.device("cpu"), seed),
    ]
    click.echo("\n\n".join(parts[2:4]))
    write_report(RESULTS / "faults.md", "Damaged files and killed runs", *parts)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
