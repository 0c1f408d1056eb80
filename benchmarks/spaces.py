"""Which latent space reconstructs fresh portraits how well, how far from the centre, and how soon?

    python benchmarks/spaces.py
    python benchmarks/spaces.py --network my.safetensors --n 4 --steps 30
    python benchmarks/spaces.py --price 16        # also what it costs: answers to edits and LEC, of 16 portraits
    python benchmarks/spaces.py --n 0 --price 16  # that alone

No network was trained on these portraits. All methods get the same number of steps and the same targets; distances are
measured by the network that the methods optimise through (`perceptual`) and by the judge, which none of them sees.
Writes `spaces.md`, `spaces.png` (pictures), `spaces-curves.png` and `spaces-price.md` into the folder of the results.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from inversions import CURVE_POINTS, MEASURES, Bench, Method, Result, with_measures
from spaces_price import price_tables
from tables import markdown_table, provenance, write_report

from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import with_space

PICTURES = 6
W_PLUS_TARGET = 24.0  # dB, median


def methods(steps: int) -> list[Method]:
    """The spaces, each with the rate and start of the recipe that it is shipped in, then whole recipes."""
    i2s, ii2s, in_pnorm = (Recipe.load(name) for name in ("i2s", "ii2s", "ii2s-pnorm"))
    table = {
        "W": with_space(i2s, "w", {}),
        "W+": i2s,
        "W+ clip 2": ii2s,
        "P-norm+ clip 2": in_pnorm,
        "P-norm+": in_pnorm.override(['stages.0.optimize.0 = "p-norm+"']),
        "P-norm": in_pnorm.override(['stages.0.optimize.0 = "p-norm"']),
        "pulse": Recipe.load("pulse"),
        "S": with_space(i2s, "s", {}),
        "W++": with_space(i2s, "w++", {}),
        "Z+": with_space(in_pnorm, "z+", {}),
        "F/W+": Recipe.load("bdinvert"),
    }
    return [Method(name, with_measures(recipe, steps)) for name, recipe in table.items()]


def psnr_at(result: Result, fraction: float) -> float:
    """Median PSNR of the best point after that fraction of the steps."""
    return torch.tensor(result.curves["psnr"])[:, round(fraction * (CURVE_POINTS - 1))].quantile(0.5).item()


def table(results: dict[str, Result], steps: int) -> str:
    fractions = (0.2, 0.5, 1.0)
    columns = ["method", *MEASURES, *(f"psnr after {round(f * steps)}" for f in fractions)]
    medians = [
        [name, *map(result.median, MEASURES), *(psnr_at(result, f) for f in fractions)]
        for name, result in results.items()
    ]
    means = [[name, *map(result.mean, MEASURES)] for name, result in results.items()]
    return "\n\n".join(["Medians:", markdown_table(columns, medians), "Means:", markdown_table(columns[:-3], means)])


def expectations(results: dict[str, Result]) -> str:
    """What was expected, and whether it held."""
    psnr = {name: result.median("psnr") for name, result in results.items()}
    claims = {f"W+ reaches {W_PLUS_TARGET:g} dB in the median ({psnr['W+']:.2f})": psnr["W+"] >= W_PLUS_TARGET}
    for name in ("W+ clip 2", "P-norm+ clip 2"):
        text = f"{name} ({psnr[name]:.2f} dB) lies between W ({psnr['W']:.2f}) and W+ ({psnr['W+']:.2f})"
        claims[text] = psnr["W"] <= psnr[name] <= psnr["W+"]
    return "\n".join(f"- {'held' if held else 'NOT held'}: {text}" for text, held in claims.items())


def draw_curves(results: dict[str, Result], steps: int, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2), ("psnr", "perceptual"), ("PSNR, dB", "perceptual distance"), strict=True
    ):
        x = torch.linspace(0, steps, CURVE_POINTS)
        for method, result in results.items():
            axes.plot(x, torch.tensor(result.curves[name]).quantile(0.5, dim=0), label=method)
        axes.set_title(f"{title}, of the best point so far (median)", fontsize=9)
        axes.set_xlabel("step")
    figure.axes[1].set_yscale("log")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=90)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=32, show_default=True, type=click.IntRange(min=0), help="Portraits; 0: the price alone.")
@click.option("--steps", default=500, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True)
@click.option("--price", "priced", default=0, show_default=True, type=click.IntRange(0), help="Portraits of the price.")
@click.option("--lec", default=16, show_default=True, type=click.IntRange(0), help="Portraits of LEC, of those.")
@click.option("--only", help="Methods, comma-separated: work on these and write no report.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str, n: int, steps: int, batch: int, device: str, priced: int, lec: int, only: str | None, out: Path
) -> None:
    """Compare the latent spaces and the shipped recipes on fresh portraits."""
    if n:
        compare(Bench(network, n, batch, device), steps, only, out)
    if priced and not only:
        bench = Bench(network, priced, batch, device)
        facts = provenance(
            bench.generator.device,
            f"image seeds from 0; portraits TEST_SEEDS[:{priced}], for lec the first {lec}",
            network=f"{bench.generator.name} ({bench.generator.fingerprint})",
            batch=batch,
        )
        write_report(out / "spaces-price.md", "What richer spaces cost", price_tables(bench, lec), facts)


def compare(bench: Bench, steps: int, only: str | None, out: Path) -> None:
    """All spaces after equal steps: spaces.md and its pictures."""
    chosen = [method for method in methods(steps) if not only or method.name in only.split(",")]
    results = bench.run(chosen)
    if only:
        return
    text, held = table(results, steps), expectations(results)
    facts = provenance(
        bench.generator.device,
        f"image seeds from 0; portraits TEST_SEEDS[:{bench.n}]",
        network=f"{bench.generator.name} ({bench.generator.fingerprint})",
        steps=steps,
        batch=bench.batch,
    )
    write_report(out / "spaces.md", "Latent spaces on fresh portraits", text, f"Expected:\n\n{held}", MEANING, facts)
    rows = [[image.cpu(), *(result.images[i] for result in results.values())] for i, image in enumerate(bench.targets)]
    contact_sheet(rows[:PICTURES], out / "spaces.png", columns=["target", *results])
    draw_curves(results, steps, out / "spaces-curves.png")
    click.echo(f"{text}\n\n{held}\nwritten to {out}")


MEANING = (
    "psnr (dB), ssim and rmse (of [0,1]) are of the 8-bit pictures. perceptual: LPIPS form on the network of the loss; "
    "judge: squared distance of the judge's unit-length features; identity: cosine of the judge's identity embeddings. "
    "radius: root mean square of the P-norm+ code, about 1 for the generator's own samples. seconds: wall clock an "
    "image. psnr after k: of the best point so far, measured in the loop before rounding and "
    "clipping (and with jitter, for sg2).\n\n"
    "![targets and reconstructions](spaces.png)\n\n![curves](spaces-curves.png)"
)


if __name__ == "__main__":
    main()
