"""The fast recipes against pivotal tuning as it was published: how much sooner, at what price, and elsewhere.

    python benchmarks/fast.py                  # all parts; goes on where it was stopped
    python benchmarks/fast.py --only costs     # or batch, price, curve, second
    python benchmarks/fast.py --only report    # the tables of what is there

The portraits have seeds that nothing was chosen on; the curve is of others. Seconds are CPU time of the process, of one
thread; the methods take turns image by image.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean, median

import click
import torch
from fast_runs import FOLDER, Method, Runs, published, tuned
from tables import markdown_table, provenance, write_report

from latentopt.editing.files import find_directions
from latentopt.evaluation.framework import evaluate
from latentopt.evaluation.measure import Measure, measure_ratio
from latentopt.evaluation.subject import Amounts
from latentopt.files.storage import write_text
from latentopt.recipe.recipe import Recipe

FRESH = range(10_770_000, 10_770_032)  # used for nothing else
CHOSEN_ON = range(10_000_100, 10_000_112)  # settings were chosen on these
EDITS = ("yaw", "smile", "glasses", "beard", "hair_length")
LEVELS = (0.01, 0.002)
PARTS = ("costs", "batch", "price", "curve", "second", "report")
MEASURES = ("perceptual", "mse", "edit_response", "edit_drift", "lec", "radius", "corruption_frechet")
RESULTS = Path(__file__).parent / "results"

PTI = published()
FAST = Method("fast", Recipe.load("fast"))
TUNED = tuned("fast-tune", 0.01)
FURTHER = tuned("fast-tune to .002", 0.002, stages__1__steps=150)


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Parts to do; all by default.")
@click.option("--images", default=len(FRESH), show_default=True, help="How many of the fresh portraits.")
@click.option("--corruption", default=1000, show_default=True, help="Pictures an image.")
def main(only: tuple[str, ...], images: int, corruption: int) -> None:
    torch.set_num_threads(1)
    one = Runs("portraits", tuple(FRESH[:images]))
    many = replace(one, batch=images)
    half = replace(many, dtype="bfloat16")
    wanted = only or PARTS
    if "costs" in wanted:
        one.run([*PTI.values(), FAST, TUNED, FURTHER])
    if "batch" in wanted:
        for runs in (many, half):
            runs.run([FAST, TUNED, FURTHER])
    prices: dict[str, dict] = {}
    if {"price", "report"} & set(wanted):
        for method in (*list(PTI.values())[1:], FAST, TUNED, FURTHER):
            prices[method.name] = price(one, method, corruption)
    parts = [costs(one, many, half), price_table(prices)] if prices else []
    if {"curve", "report"} & set(wanted):
        parts.append(curve())
    if {"second", "report"} & set(wanted):
        parts.append(second())
    if "report" in wanted:
        facts = provenance(torch.device("cpu"), f"portraits {FRESH[0]} to {FRESH[images - 1]}")
        write_report(RESULTS / "fast.md", "Fast recipes against pivotal tuning", *parts, facts)


# --- what it costs to get to a distance


def costs(one: Runs, many: Runs, half: Runs) -> str:
    """CPU seconds and units to each level, and how many times less than `pti`, image by image."""
    lines = []
    for level in LEVELS:
        for runs, methods in ((one, (*list(PTI.values())[1:3], TUNED, FURTHER)), (many, (FURTHER,)), (half, (FURTHER,))):
            for method in methods:
                lines.append([f"{level:g}", method.name, f"{runs.batch}, {runs.dtype}", *cost(runs, method, level, one)])
    columns = ["to", "method", "batch", "reached", "CPU s an image: median (mean; range)", "units: median (range)"]
    columns += ["times less CPU than pti: median (range)", "than pti without locality", "worst"]
    text = (
        "Published schedules: 450 steps for the pivot, 350 for the weights, one image at a time, float32. Where `pti` does "
        "not get to a level within its schedule, its whole schedule counts, and the factor is a lower bound (>)."
    )
    return "\n\n".join(["## CPU time and work to a perceptual distance", text, markdown_table(columns, lines)])


def cost(runs: Runs, method: Method, level: float, one: Runs) -> list[object]:
    reached = {name: runs.reach(method, name, level) for name in runs.names}
    found = {name: reached[name] or runs.whole(method, name) for name in runs.names}
    cpu, work = ([pair[i] for pair in found.values()] for i in range(2))
    factors = []
    for base in list(PTI.values())[1:3]:
        theirs = {name: one.reach(base, name, level) for name in runs.names}
        ratios = [(theirs[name] or one.whole(base, name))[0] / found[name][0] for name in runs.names]
        bound = ">" if any(pair is None for pair in theirs.values()) else ""
        factors.append("" if method.start else f"{bound}{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    worst = max(found, key=lambda name: found[name][0])
    return [
        f"{sum(x is not None for x in reached.values())} of {len(found)}",
        f"{median(cpu):.2f} ({mean(cpu):.2f}; {min(cpu):.2f} to {max(cpu):.2f})",
        f"{median(work):.0f} ({min(work):.0f} to {max(work):.0f})",
        *factors,
        f"{worst}: {found[worst][0]:.2f} s",
    ]


# --- the price


def price(runs: Runs, method: Method, corruption: int, lec: int = 16, samples: int = 64) -> dict:
    """Measures by name, and the rows of images; kept beside the results."""
    path = runs.folder(method.sized(runs.batch)) / f"price-{len(runs.seeds)}-{corruption}-{lec}.json"
    if not path.is_file():
        directions = {name: x for name, x in find_directions(runs.generator).items() if name in EDITS}
        found = evaluate(
            runs.results(method),
            runs.generator,
            directions=directions,
            parts=("reconstruction", "latents", "attributes", "lec", "corruption"),
            amounts=Amounts(samples=samples, lec=lec, corruption=corruption),
        )
        measures = {name: asdict(measure) for name, measure in found.measures.items()}
        write_text(path, json.dumps({"measures": measures, "rows": found.images}))
        print(f"{method.name}: measured", flush=True)
    return json.loads(path.read_text())


def price_table(prices: dict[str, dict]) -> str:
    """Every measure with its interval; the edit response as a share of that of `pti`, image by image."""
    lines = []
    for name, found in prices.items():
        measures = {key: Measure(**value) for key, value in found["measures"].items()}
        shares = [share_of(found, prices[base]) for base in list(PTI)[1:4:2]]
        lines.append([name, *(interval(measures.get(key)) for key in MEASURES), *map(interval, shares)])
    columns = ["method", *(key.replace("_", " ") for key in MEASURES), "edit response / pti's", "/ that of pti, stop at .01"]
    text = (
        f"Five directions ({', '.join(EDITS)}). Means over the images with 95 % intervals; the shares are ratios of means "
        "over the same images."
    )
    return "\n\n".join(["## The price", text, markdown_table(columns, lines)])


def share_of(found: dict, base: dict) -> Measure:
    above, below = (torch.tensor([row["edit_response"] for row in x["rows"]]) for x in (found, base))
    return measure_ratio("share", above, below)


def interval(measure: Measure | None) -> str:
    if measure is None:
        return ""
    bounds = "" if measure.low is None or measure.high is None else f" ({measure.low:.3g} to {measure.high:.3g})"
    return f"{measure.value:.3g}{bounds}"


# --- speed against editability


def curve() -> str:
    """Variants of `fast-tune` on the portraits that settings were chosen on."""
    runs = Runs("portraits", tuple(CHOSEN_ON), batch=len(CHOSEN_ON))
    lines = []
    for method in (*list(PTI.values())[:0], *variants()):
        runs.run([method])
        found = price(runs, method, corruption=60, lec=0, samples=32)
        work = [runs.whole(method, name)[1] for name in runs.names]
        values = [found["measures"][key]["value"] for key in ("perceptual", "edit_response", "edit_drift", "radius")]
        lines.append([method.name, mean(work), *values, found["measures"]["corruption_frechet"]["value"]])
    columns = ["variant", "units", "perceptual", "edit response", "edit drift", "radius", "corruption (60 pictures)"]
    return "\n\n".join(["## Speed against editability", markdown_table(columns, lines)])


def variants() -> list[Method]:
    return []


# --- another generator


def second() -> str:
    return ""


if __name__ == "__main__":
    main()
