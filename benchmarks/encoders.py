"""Encoders, optimisation and hybrids: quality against time (ReStyle, Figures 5 and 18) on fresh portraits.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --n 8 --steps 40 --hybrid-steps 20

Optimisation from the mean of W is followed up to `--steps`; the bundled encoders are points, ReStyle's a curve over its
steps; each start is then optimised for `--hybrid-steps`, as is the mean, all alike (W+, perceptual and l2 at weight 1,
the rate falling as a cosine). Writes `encoders.md`, `encoders.png` (curves) and `encoders-portraits.png` into the
results.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch
from encoder_arms import MEASURES, Found, encoding, following, work_through
from inversions import Bench
from tables import markdown_table, provenance, write_report

from latentopt.encoders.files import load_encoder
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.initializers.linear import Linear
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.recipe.recipe import Recipe

ENCODERS = ("psp", "e4e", "restyle-psp", "restyle-e4e")
STARTS = ("mean", "linear", *ENCODERS)
OPTIMISATION = "optimisation"
PLACES = (0, 1, 2, 5, 10, 20, 30, 50, 75, 100, 125, 150, 200, 300, 500, 700, 1000, 1250, 1500)
RESTYLE_STEPS = 10
# of all arms: of 0.02, 0.05, 0.1 and 0.2, within 0.5 dB of the best after 100 steps from each start (8 portraits)
LR = 0.05
COLOURS = {"psp": "#c0392b", "e4e": "#2457a6", "linear": "#8e6c00", "mean": "#2e7d4f"}
PICTURES = 6


def recipe_from(start: str, steps: int) -> Recipe:
    """W+ from a start with the terms of the shipped recipes, all arms alike."""
    recipe = Recipe.load("i2s")
    stage = replace(recipe.stages[0], init={"name": start}, steps=steps, lr=LR)
    return replace(recipe, stages=(stage,))


def optimised(bench: Bench, start: str, steps: int, name: str, from_end: bool = False) -> Found:
    recipe = recipe_from(start, steps)
    places = sorted({place for place in PLACES if place < steps} | {steps})
    owner = load_encoder(start, bench.generator).fingerprint if start in ENCODERS else ""
    return work_through(bench, name, ["follow", recipe.digest, owner, places], following(recipe, places), from_end)


def encoded(bench: Bench, kind: str) -> Found:
    """What an encoder makes, by steps."""
    encoder = load_encoder(kind, bench.generator).to(bench.generator.device)
    steps = RESTYLE_STEPS if encoder.config.iterative else None
    return work_through(
        bench,
        f"encoder {kind}",
        ["encode", encoder.fingerprint, steps],
        encoding(lambda target: encoder.encode(bench.generator, target, steps)),
    )


def predicted(bench: Bench) -> Found:
    """What the linear prior makes."""
    prior = Linear(bench.generator)
    return work_through(bench, "linear prior", ["linear"], encoding(lambda target: [prior(target, [])]))


def warm_up(generator: StyleGAN2) -> None:
    """Let lazy set-up not count as the first group's time."""
    for kind in ENCODERS:
        load_encoder(kind, generator).encode(generator, torch.zeros(2, 3, *generator.resolution))


def table(found: dict[str, Found], shown: dict[str, list[int]]) -> str:
    """Means over the images of each method after each number of steps in `shown`."""
    rows = [
        [name, step, found[name].points[step].mean("seconds"), *map(found[name].points[step].mean, MEASURES)]
        for name, steps in shown.items()
        for step in steps
    ]
    return markdown_table(["method", "steps", "seconds", *MEASURES], rows)


def first_at(found: Found, measure: str, wanted: float, column: str = "steps") -> float | None:
    """Steps or seconds after which the mean of a distance is at most `wanted`, by interpolation between the places."""
    before = None
    for step in sorted(found.points):
        point = found.points[step]
        now = (float(step) if column == "steps" else point.mean("seconds"), point.mean(measure))
        if now[1] <= wanted:
            if before is None:
                return now[0]
            share = (before[1] - wanted) / (before[1] - now[1])
            return before[0] + share * (now[0] - before[0])
        before = now
    return None


def expectations(found: dict[str, Found], hybrid_steps: int) -> str:
    """What was expected, and whether it held."""
    claims: dict[str, bool] = {}
    for base in ("psp", "e4e"):
        one, restyle = found[base].points[1], found[f"restyle-{base}"].points
        for measure in ("l2", "perceptual"):
            values = {step: point.mean(measure) for step, point in restyle.items()}
            best = min(values, key=values.__getitem__)
            at = next((step for step in sorted(values) if values[step] < one.mean(measure)), None)
            claims[
                f"ReStyle over {base} beats its one-pass base in {measure} "
                f"({values[1]:.4g} after 1 step, {values[best]:.4g} at best, after {best}; "
                f"{base} {one.mean(measure):.4g}; "
                f"{'never ahead' if at is None else f'ahead from step {at}'})"
            ] = at is not None
    mean = found["hybrid mean"].points[hybrid_steps]
    for measure in ("l2", "perceptual"):
        needed = first_at(found["hybrid linear"], measure, mean.mean(measure))
        saved = None if needed is None else 1 - needed / hybrid_steps
        text = "never reached" if saved is None else f"{saved:.0%} of {hybrid_steps} steps saved"
        claims[f"the linear prior saves a third of the steps to the mean start's {measure} ({text})"] = (
            saved is not None and saved >= 1 / 3
        )
    for kind in ENCODERS:
        for measure in ("l2", "perceptual"):
            needed = first_at(found[f"hybrid {kind}"], measure, mean.mean(measure), "seconds")
            share = None if needed is None else needed / mean.mean("seconds")
            text = "never" if share is None else f"in {share:.0%} of its time"
            claims[
                f"hybrid {kind} reaches the {measure} that the mean start has after {hybrid_steps} steps in less than "
                f"half its time ({text})"
            ] = share is not None and share < 1 / 2
    return "\n".join(f"- {'held' if held else 'NOT held'}: {text}" for text, held in claims.items())


def times_as_long(found: dict[str, Found], hybrid_steps: int) -> str:
    """How many times as long the optimisation from the mean takes to what each start has reached by then."""
    places = [place for place in (0, 10, 20, 50, 100) if place <= hybrid_steps]
    rows = []
    for start in (name for name in STARTS if name != "mean"):
        for measure in ("l2", "perceptual"):
            points = found[f"hybrid {start}"].points
            needed = {k: first_at(found[OPTIMISATION], measure, points[k].mean(measure), "seconds") for k in places}
            rows.append([start, measure, *(n and n / points[k].mean("seconds") for k, n in needed.items())])
    return markdown_table(["start", "to its", *(f"after {place} steps" for place in places)], rows)


def draw(found: dict[str, Found], path: Path) -> None:
    """Figures 5 and 18: three distances against seconds, both scales logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), layout="constrained")
    titles = {"l2": "L2", "perceptual": "perceptual distance (LPIPS form)", "identity": "1 - identity (judge)"}
    for axes, (measure, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for name, result in found.items():
            points = [result.points[step] for step in sorted(result.points)]
            x = [max(point.mean("seconds"), 1e-3) for point in points]
            y = [1 - point.mean(measure) if measure == "identity" else point.mean(measure) for point in points]
            axes.plot(x, y, label=name, **_style(name, len(points)))
        axes.set(xscale="log", yscale="log", xlabel="processor seconds an image", title=title)
        axes.grid(True, which="both", alpha=0.15)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _style(name: str, points: int) -> dict:
    """As in the papers: a colour for each family, stars for one pass, solid lines for ReStyle, dashes for hybrids."""
    colour = next((c for key, c in COLOURS.items() if key in name), COLOURS["mean"])
    if points == 1:
        return {"color": colour, "marker": "*", "markersize": 14, "linestyle": ""}
    if name in ENCODERS:
        return {"color": colour, "marker": "."}
    if name == OPTIMISATION:
        return {"color": colour, "linewidth": 2}
    return {"color": colour, "linestyle": ":" if "restyle" in name else "--", "linewidth": 1.2}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=200, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--steps", default=1500, show_default=True, type=click.IntRange(min=1), help="Of the optimisation.")
@click.option("--hybrid-steps", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--only", help="Arms, comma-separated: work on these and write no report.")
@click.option("--from-end", is_flag=True, help="Begin with the last images, to meet another process in the middle.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str,
    n: int,
    steps: int,
    hybrid_steps: int,
    batch: int,
    dtype: str,
    only: str | None,
    from_end: bool,
    out: Path,
) -> None:
    """Draw the quality-time graph of encoders, optimisation and hybrids."""
    bench = Bench(network, n, batch, "cpu", dtype)
    arms = {kind: lambda kind=kind: encoded(bench, kind) for kind in ENCODERS}
    arms["linear prior"] = lambda: predicted(bench)
    arms |= {
        f"hybrid {start}": lambda start=start: optimised(bench, start, hybrid_steps, f"hybrid {start}", from_end)
        for start in STARTS
    }
    arms[OPTIMISATION] = lambda: optimised(bench, "mean", steps, OPTIMISATION, from_end)
    chosen = arms if only is None else {name: arms[name] for name in only.split(",")}
    warm_up(bench.generator)
    found = {name: work() for name, work in chosen.items()}
    if only:
        return
    shown = {name: sorted(result.points) for name, result in found.items()}
    text, held = table(found, shown), expectations(found, hybrid_steps)
    facts = provenance(
        bench.generator.device,
        f"image seeds from 0; portraits TEST_SEEDS[:{n}]",
        network=f"{bench.generator.name} ({bench.generator.fingerprint})",
        encoders=", ".join(f"{kind} {load_encoder(kind, bench.generator).fingerprint}" for kind in ENCODERS),
        batch=batch,
        dtype=dtype,
    )
    longer = f"## How many times as long optimisation from the mean takes\n\n{times_as_long(found, hybrid_steps)}"
    expected = f"Expected:\n\n{held}"
    write_report(
        out / "encoders.md", "Encoders, optimisation and hybrids", expected, longer, "## All", text, MEANING, facts
    )
    sheet = list(found)
    rows = [[image.cpu(), *(found[name].images[i] for name in sheet)] for i, image in enumerate(bench.targets)]
    contact_sheet(rows[:PICTURES], out / "encoders-portraits.png", columns=["target", *sheet])
    draw(found, out / "encoders.png")
    click.echo(f"{held}\nwritten to {out}")


MEANING = (
    "Means over the images, of 8-bit pictures. psnr in dB; l2: mean square in [-1,1]; perceptual: LPIPS form on the "
    "network that the optimisation uses; judge and identity: squared distance of features and cosine of identity "
    "embeddings of a network that no method sees. seconds: of the processor (one thread), an image, in batches; "
    "measuring is not counted. steps: of ReStyle, or of the optimisation, whose best point so far is measured; 0 is "
    "the start with all preparations. Differences from the paper: the "
    "optimisation is that of W+ (its figures have Karras et al.'s of W), and is one run of all steps, read on the way, "
    "while `hybrid mean` is a run as short as the hybrids.\n\n![quality against time](encoders.png)\n\n"
    "![targets and results](encoders-portraits.png)"
)


if __name__ == "__main__":
    main()
