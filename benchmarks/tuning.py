"""Which way of tuning the generator restores an image best, and what does it cost the generator? (WRanGAN paper,
re-made.)

    python benchmarks/tuning.py
    python benchmarks/tuning.py --part table --images 2 --steps 20 --shifted 50 --n 128

Fresh portraits and four pictures that are no portraits; all strategies start from one pivot in W an image. Parts:

- table       distortion, corruption, time, memory, parameters, and edits afterwards: `tuning.md` (the paper's Tables 2,
  4)
- figures     Figure 1 (`tuning-edits-*.png`) and Figure 2 (`tuning-corruption.png`) of the same runs
- layers      Figure 3 and Table 1: simple tune of the last N layers against regularisation: `tuning-layers.md`
- sigma       Figure 8, Tables 6 and 7, epsilon after inversion (appendix C): `tuning-sigma.md`
- generation  Table 3: Frechet distance, precision and recall of WRanGAN and base: `tuning-generation.md`
"""

from __future__ import annotations

from pathlib import Path

import click
from tables import markdown_table, provenance, write_report
from tuning_figures import draw_corruption, draw_edits, draw_layers, draw_sigma
from tuning_memory import peak_mib
from tuning_sigma import LAYERS, epsilon_table, generation_table, influence_table, parameters_table, sigma_table
from tuning_strategies import BASE, ESTIMATED, JOINT, SIMPLE, Strategy, strategies, tuning_part
from tuning_tables import (
    EDIT_MEANING,
    MEANING,
    edit_table,
    expectations,
    main_table,
    medians,
    paper_table,
)
from tunings import Bench, Result

from latentopt.statistics.sigma import Sigma

PARTS = ("table", "figures", "layers", "sigma", "generation")
COEFFICIENTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of Figure 3
LAYER_IMAGES = 8  # of Figure 3, at most


def facts(bench: Bench, **more: object) -> str:
    networks = ", ".join(f"{name} {g.name} ({g.fingerprint})" for name, g in bench.networks.items())
    return provenance(
        bench.networks[BASE].device,
        "image seeds from 0, shifts 0",
        networks=networks,
        extractor=bench.extractor,
        images=f"TEST_SEEDS[:{bench.images}]",
        batch=bench.batch,
        **more,
    )


def absent(bench: Bench) -> str:
    return "" if bench.wrangan else "No WRanGAN was given: its rows are missing.\n\n"


def table_part(bench: Bench, out: Path) -> str:
    chosen = strategies(bench.sigma, bench.steps)
    results = bench.run(chosen)
    sources = {name: generator.source for name, generator in bench.networks.items()}
    memory = {s.name: peak_mib(sources[s.network], s.recipe, bench.device) for s in chosen if s.recipe is not None}
    inside, outside = slice(0, bench.images), slice(bench.images, None)
    pivots = ", ".join(f"{results[s.name].mean('pivot seconds'):.1f} s ({s.name})" for s in chosen if s.recipe is None)
    steps = "; ".join(f"{s.name}: {sum(x.steps for x in s.recipe.stages)}" for s in chosen if s.recipe is not None)
    parts = [
        f"## Portraits ({bench.images}), means\n\n{main_table(results, inside, memory)}",
        f"## Portraits, medians\n\n{medians(results, inside)}",
        f"## After four edits, portraits\n\n{edit_table(bench, results, inside)}\n\n{EDIT_MEANING}",
        f"## Expected\n\n{expectations(results, inside, memory)}",
        f"## Beside the paper's Table 2\n\n{paper_table(results, inside, memory)}",
        f"## {absent(bench)}{MEANING}\n\nFinding the pivot took {pivots} an image besides.".removeprefix("## "),
        facts(bench, steps=steps, corruption=f"{bench.shifted} pictures"),
    ]
    if bench.outside:
        parts.insert(2, f"## Pictures that are no portraits (4), means\n\n{main_table(results, outside, memory)}")
        parts.insert(4, f"## After four edits, no portraits\n\n{edit_table(bench, results, outside)}")
    write_report(out / "tuning.md", "Tuning the generator", *parts)
    return "\n\n".join(parts)


def figures_part(bench: Bench, out: Path) -> str:
    results = bench.run(strategies(bench.sigma, bench.steps))
    draw_edits(bench, results, 0, out / "tuning-edits-portrait.png")
    if bench.outside:
        draw_edits(bench, results, bench.images, out / "tuning-edits-outside.png")
    names = [name for name in (SIMPLE, JOINT, ESTIMATED) if name in results]
    draw_corruption(results, names, slice(0, bench.images), out / "tuning-corruption.png")
    return "figures drawn"


def layers_part(bench: Bench, out: Path) -> str:
    few = Bench(bench.base, None, min(bench.images, LAYER_IMAGES), False, bench.batch, bench.device, 0, bench.steps)
    name = "{} layers, l2 {:g}".format
    chosen = [
        Strategy(name(n, l2), BASE, tuning_part("weights", bench.steps, layers=f"convs:{n}", l2=l2), corruption=False)
        for n in LAYERS
        for l2 in COEFFICIENTS
    ]
    results: dict[str, Result] = few.run(chosen)
    curves = {n: {l2: results[name(n, l2)].mean("mse") for l2 in COEFFICIENTS} for n in LAYERS}
    draw_layers(curves, out / "tuning-layers.png")
    rows = [[n, *points.values()] for n, points in curves.items()]
    text = markdown_table(["layers", *(f"l2 {l2:g}" for l2 in COEFFICIENTS)], rows)
    best = {l2: min(LAYERS, key=lambda n: curves[n][l2]) for l2 in COEFFICIENTS}
    said = "; ".join(f"l2 {l2:g}: N = {n}" for l2, n in best.items())
    said = f"Lowest mse: {said}. The paper found N = 6 lowest.\n\n![curves](tuning-layers.png)"
    count = (
        f"## Table 1\n\n{parameters_table(few.networks[BASE])}\n\n"
        "Increase over all parameters, mapping network included."
    )
    write_report(
        out / "tuning-layers.md",
        "How many layers to randomise",
        f"## Figure 3: mse\n\n{text}\n\n{said}",
        count,
        facts(few),
    )
    return f"{text}\n\n{said}\n\n{count}"


def sigma_part(bench: Bench, out: Path) -> str:
    sigmas: dict[str, Sigma] = {origin: bench.load_sigma(origin) for origin in bench.sigma}
    draw_sigma(sigmas, out / "tuning-sigma.png")
    deviations = epsilon_table(bench.run(strategies(bench.sigma, bench.steps)))
    parts = [
        f"{absent(bench)}## Figure 8 and Table 6: sigma by layer\n\n{sigma_table(sigmas)}\n\n"
        "![sigma](tuning-sigma.png)",
        f"## Table 7: influence of each layer\n\n{influence_table(bench.networks[BASE], sigmas)}\n\nMean squared "
        "change of pictures in [-1,1] of the base generator, weights of one layer changed at random.",
        f"## Appendix C: deviation of epsilon after inversion\n\n{deviations}\n\n"
        "1 in training. The paper: a variance about 10 times lower than that on FFHQ, 7 times on churches.",
    ]
    write_report(out / "tuning-sigma.md", "Sigma", *parts, facts(bench))
    return "\n\n".join(parts)


def generation_part(bench: Bench, out: Path, n: int) -> str:
    text = f"{absent(bench)}{generation_table(bench, n)}"
    meaning = (
        f"{n} pictures each against {n} fresh portraits, judge features, psi 1; epsilon drawn anew for each picture. "
        "The paper's are Inception's figures on FFHQ: compare orders."
    )
    write_report(out / "tuning-generation.md", "WRanGAN as a generator (Table 3)", text, meaning, facts(bench, n=n))
    return text


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="May be repeated; all by default.")
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option(
    "--wrangan", default="portraits-wrangan", show_default=True, help="Its WRanGAN, with sigma beside; or none."
)
@click.option("--images", default=30, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--outside/--no-outside", default=True, show_default=True, help="Also pictures that are no portraits.")
@click.option("--steps", type=click.IntRange(min=1), help="Of every stage; by default as the recipes say.")
@click.option("--shifted", default=1000, show_default=True, type=click.IntRange(min=4), help="Pictures for corruption.")
@click.option("--n", default=5000, show_default=True, type=click.IntRange(min=16), help="Pictures for Table 3.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--backwards", is_flag=True, help="Last runs first: for a second process beside another.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    parts: tuple[str, ...],
    network: str,
    wrangan: str,
    images: int,
    outside: bool,
    steps: int | None,
    shifted: int,
    n: int,
    batch: int,
    backwards: bool,
    device: str,
    out: Path,
) -> None:
    """Compare ways of tuning the generator to an image."""
    bench = Bench(
        network, None if wrangan == "none" else wrangan, images, outside, batch, device, shifted, steps, backwards
    )
    out.mkdir(parents=True, exist_ok=True)
    work = {
        "table": lambda: table_part(bench, out),
        "figures": lambda: figures_part(bench, out),
        "layers": lambda: layers_part(bench, out),
        "sigma": lambda: sigma_part(bench, out),
        "generation": lambda: generation_part(bench, out, n),
    }
    for part in parts or PARTS:
        click.echo(f"\n{work[part]()}")
    click.echo(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
