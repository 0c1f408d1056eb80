"""The fast recipes against pivotal tuning as it was published: how much sooner, at what price, and elsewhere.

    python benchmarks/fast.py                  # all parts; goes on where it was stopped
    python benchmarks/fast.py --only costs     # or batch, stopped, price, curve, second
    python benchmarks/fast.py --only report    # the tables of what is there

The portraits have seeds that nothing was chosen on; the curve is of others. Seconds are CPU time of the process, of one
thread; the methods take turns image by image.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median

import click
import torch
from fast_others import OwnRuns
from fast_runs import Method, Runs, published, tuned
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
PARTS = ("costs", "batch", "stopped", "price", "curve", "second", "others", "report")
MEASURES = ("perceptual", "mse", "edit_response", "edit_drift", "lec", "radius", "corruption_frechet")
RESULTS = Path(__file__).parent / "results"

PTI = published()
BASES = ("pti", "pti, stop at .01")
FAST = Method("fast", Recipe.load("fast"))
TUNED = tuned("fast-tune", 0.01)
FURTHER = tuned("fast-tune to .002", 0.002, stages__1__steps=150)
SOONER, PRICE = "CPU time and work to a perceptual distance", "The price"
PLAIN = "The same without the locality term, as the released code has it by default"
TEXTS = {
    SOONER: """Published schedules: 450 steps for the pivot, 350 for the weights, one image at a time, float32.
Where `pti` does not get to a level within its schedule, its whole schedule counts, and the factor is a lower bound
(>).""",
    PRICE: f"""Five directions ({", ".join(EDITS)}). Means over the images with 95 % intervals; the shares are ratios of
means over the same images.""",
}


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Parts to do; all by default.")
@click.option("--images", default=len(FRESH), show_default=True, help="How many of the fresh portraits.")
@click.option("--corruption", default=1000, show_default=True, help="Pictures an image.")
def main(only: tuple[str, ...], images: int, corruption: int) -> None:
    torch.set_num_threads(1)
    one = Runs("portraits", tuple(FRESH[:images]))
    many = replace(one, batch=images)
    half = replace(many, dtype="bfloat16")
    other = replace(one, network="portraits-wrangan", seeds=one.seeds[:8])
    ours, wanted = (FAST, TUNED, FURTHER), only or PARTS
    few = replace(one, seeds=one.seeds[:8])
    if "costs" in wanted:
        one.run([PTI["pivot"], PTI["pti"], *ours])
        few.run([PTI["pti, no locality"]])
    if "stopped" in wanted:
        many.run([PTI["pivot"], PTI["pti, stop at .01"]])
    if "batch" in wanted:
        many.run(ours)
        half.run(ours)
    foreign = [OwnRuns(name, tuple(range(4))) for name in ("stylegan3-t 32", "stylegan2 256")]
    if "second" in wanted:
        other.run([PTI["pivot"], PTI["pti"], TUNED, FURTHER])
    if "others" in wanted:
        for runs in foreign:
            runs.run([runs.adapted(method) for method in (PTI["pivot"], PTI["pti"], TUNED, FURTHER)])
    parts = {}
    if {"costs", "batch", "report"} & set(wanted):
        base = one.finished([PTI["pti"], TUNED, FURTHER])
        rows = [(runs.finished([FURTHER]), (FURTHER,)) for runs in (many, half)]
        parts[SOONER] = costs(PTI["pti"], base, [(base, (PTI["pti"], TUNED, FURTHER)), *rows])
    if {"costs", "report"} & set(wanted):
        few = few.finished([PTI["pti, no locality"], TUNED, FURTHER])
        parts[PLAIN] = costs(PTI["pti, no locality"], few, [(few, (PTI["pti, no locality"], TUNED, FURTHER))])
    if {"price", "report"} & set(wanted):
        parts[PRICE] = price_table(one, many, corruption, make="price" in wanted)
    if {"curve", "report"} & set(wanted):
        parts["Speed against editability"] = curve(make="curve" in wanted)
    if {"second", "report"} & set(wanted):
        done = other.finished([PTI["pti"], TUNED, FURTHER])
        parts["Another generator: the bundled WRanGAN's"] = costs(
            PTI["pti"], done, [(done, (PTI["pti"], TUNED, FURTHER))]
        )
    for runs in foreign if {"others", "report"} & set(wanted) else ():
        pti, *ours = (runs.adapted(method) for method in (PTI["pti"], TUNED, FURTHER))
        done = runs.finished([pti, *ours])
        parts[f"Another generator: {runs.network}, random weights"] = costs(pti, done, [(done, (pti, *ours))])
    sections = [f"## {title}\n\n{TEXTS.get(title, '')}\n\n{table}" for title, table in parts.items() if table]
    if "report" in wanted:
        facts = provenance(torch.device("cpu"), f"portraits {FRESH[0]} to {FRESH[images - 1]}")
        write_report(RESULTS / "fast.md", "Fast recipes against pivotal tuning", *sections, facts)
    else:
        print("\n\n".join(sections))


# --- what it costs to get to a distance

Cases = list[tuple[Runs, tuple[Method, ...]]]


def costs(base: Method, theirs: Runs, cases: Cases) -> str:
    """CPU seconds and units to each level, and how many times less than `base` in its own runs (on those of the images
    that it was run on), image by image.
    """
    lines = [
        [f"{level:g}", method.name, f"{runs.batch}, {runs.dtype}", *cost(runs, method, level, base, theirs)]
        for level in LEVELS
        for runs, methods in cases
        if runs.seeds
        for method in methods
        if any(runs.reach(method, name, level) for name in runs.names)
    ]
    if not lines:
        return ""
    columns = ["to", "method", "batch", "reached", "CPU s an image: median (mean; range)", "units: median (range)"]
    return markdown_table([*columns, f"times less CPU than {base.name}: median (range)", "most"], lines)


def cost(runs: Runs, method: Method, level: float, base: Method, theirs: Runs) -> list[object]:
    reached = {name: runs.reach(method, name, level) for name in runs.names}
    found = {name: reached[name] or runs.whole(method, name) for name in runs.names}
    cpu, work = ([pair[i] for pair in found.values()] for i in range(2))
    ends = {name: theirs.reach(base, name, level) for name in runs.names if name in theirs.names}
    ratios = [(end or theirs.whole(base, name))[0] / found[name][0] for name, end in ends.items()]
    bound = ">" if any(end is None for end in ends.values()) else ""
    most = max(found, key=lambda name: found[name][0])
    return [
        f"{sum(x is not None for x in reached.values())} of {len(found)}",
        f"{median(cpu):.2f} ({mean(cpu):.2f}; {min(cpu):.2f} to {max(cpu):.2f})",
        f"{median(work):.0f} ({min(work):.0f} to {max(work):.0f})",
        "" if method.start or not ratios else f"{bound}{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        f"{most}: {found[most][0]:.2f} s",
    ]


# --- the price


def price(
    runs: Runs, method: Method, corruption: int, lec: int = 16, samples: int = 64, make: bool = True
) -> dict | None:
    """Measures by name, and the rows of images; kept beside the results. None where it is not to be made."""
    path = runs.folder(method.sized(runs.batch)) / f"price-{len(runs.seeds)}-{corruption}-{lec}.json"
    if not path.is_file() and not make:
        return None
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


def price_table(one: Runs, many: Runs, corruption: int, make: bool) -> str:
    """Every measure with its interval; the edit response as a share of that of `pti`, over the same images."""
    cases = [(one, PTI["pti"]), (many, PTI["pti, stop at .01"]), *((many, method) for method in (FAST, TUNED, FURTHER))]
    prices = {}
    for runs, method in cases:
        done = runs.finished([method])
        if done.seeds and (found := price(done, method, corruption, make=make)) is not None:
            prices[method.name] = found
    lines = []
    for name, found in prices.items():
        measures = {key: Measure(**value) for key, value in found["measures"].items()}
        shares = [share_of(found, prices[base]) if base in prices else None for base in BASES]
        lines.append([name, *(interval(measures.get(key)) for key in MEASURES), *map(interval, shares)])
    if not lines:
        return ""
    columns = [*(key.replace("_", " ") for key in MEASURES), *(f"edit response / that of {base}" for base in BASES)]
    return markdown_table(["method", *columns], lines)


def share_of(found: dict, base: dict) -> Measure:
    """Of the images that both have."""
    theirs = {row["name"]: row["edit_response"] for row in base["rows"]}
    pairs = [(row["edit_response"], theirs[row["name"]]) for row in found["rows"] if row["name"] in theirs]
    above, below = torch.tensor(pairs).T
    return measure_ratio("share", above, below)


def interval(measure: Measure | None) -> str:
    if measure is None:
        return ""
    bounds = "" if measure.low is None or measure.high is None else f" ({measure.low:.3g} to {measure.high:.3g})"
    return f"{measure.value:.3g}{bounds}"


# --- speed against editability


def curve(make: bool) -> str:
    """Variants of `fast-tune`, and `pti`, on the portraits that settings were chosen on."""
    runs = Runs("portraits", tuple(CHOSEN_ON), batch=len(CHOSEN_ON))
    lines = []
    for method in (PTI["pti, stop at .01"], *variants()):
        if make:
            runs.run([method] if method.start is None else [method.start, method])
        found = price(runs, method, corruption=60, lec=0, samples=32, make=make)
        if found is None:
            continue
        work = mean(runs.whole(method, name)[1] for name in runs.names)
        measures = ("perceptual", "edit_response", "edit_drift", "radius", "corruption_frechet")
        lines.append([method.name, work, *(found["measures"][key]["value"] for key in measures)])
    if not lines:
        return ""
    columns = ["variant", "units", "perceptual", "edit response", "edit drift", "radius", "corruption (60 pictures)"]
    return markdown_table(columns, lines)


def variants() -> list[Method]:
    """One setting of `fast-tune` changed at a time."""
    first, second = "stages__0__", "stages__1__"
    return [
        TUNED,
        *(tuned(f"{n} latent steps", 0.01, **{first + "steps": n}) for n in (0, 5, 20, 40)),
        *(tuned(f"latent damping {x:g}", 0.01, **{first + "optimize__0__damping": x}) for x in (0.01, 0.1, 10.0)),
        tuned("p-norm+ in the metric", 0.01, **{first + "optimize__0__name": "p-norm+"}),
        *(tuned(f"weights {x}", 0.01, **{second + "optimize__0__layers": x}) for x in ("convs:2", "convs:6", "convs")),
        *(tuned(f"l2 {x:g}", 0.01, **{second + "optimize__0__l2": x}) for x in (0.0, 0.1)),
        *(tuned(f"to {x:g}", x, **{second + "steps": 150}) for x in (0.02, 0.005, 0.002)),
    ]


if __name__ == "__main__":
    main()
