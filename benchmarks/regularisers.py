"""The P-norm paper's ablation of regularisers (Zhu et al. 2020, Tables 5 and 6, reconstruction) on the bundled domain.

    python benchmarks/regularisers.py
    python benchmarks/regularisers.py --network my.safetensors --n 2 --steps 20

W+ with Adam at rate 0.01 for 1200 steps, perceptual and l2 terms, on 10 images, as the paper. What cannot be the same:

- The paper's generator has L = 18 layers of C = 512. Project-n bounds the norm of one coordinate over the layers: n is
  scaled by sqrt(L/18). The L2 weight multiplies a sum over L x C: it is scaled by 18*512 / (L*C). Clip-n needs nothing.
- The start is the origin of P-norm in every run; the paper's code starts from the mean of w, which lies outside the
  clip.
- VGG and LPIPS are read as the loss network's and the judge's distances: compare orders, not values.
"""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import click
from inversions import Bench, Method, Result, with_measures
from scipy.stats import spearmanr
from tables import markdown_table, provenance, write_report

from latentopt.recipe.recipe import Recipe

PAPER_LAYERS, PAPER_W_DIM = 18, 512
METRICS = {"SSIM": "ssim", "RMSE": "rmse", "PSNR": "psnr", "VGG": "perceptual", "LPIPS": "judge"}  # the paper's: ours

# SSIM, RMSE, PSNR, VGG, LPIPS
TABLE_6 = {
    "none, lr 0.1": (0.82, 0.07, 24.08, 0.63, 0.15),
    "none": (0.83, 0.06, 24.43, 0.61, 0.14),
    "Clip-1": (0.77, 0.09, 20.88, 0.86, 0.26),
    "Clip-2": (0.79, 0.07, 22.53, 0.76, 0.21),
    "Clip-5": (0.82, 0.07, 23.43, 0.68, 0.17),
    "Clip-7": (0.82, 0.07, 23.77, 0.67, 0.17),
    "Clip-10": (0.82, 0.07, 23.77, 0.66, 0.16),
    "Project-1": (0.78, 0.09, 21.06, 0.87, 0.26),
    "Project-2": (0.78, 0.09, 21.51, 0.84, 0.24),
    "Project-5": (0.80, 0.08, 22.48, 0.77, 0.21),
    "Project-7": (0.81, 0.07, 22.87, 0.73, 0.20),
    "Project-10": (0.82, 0.07, 23.57, 0.68, 0.17),
    "L2-1e-4": (0.66, 0.19, 14.32, 1.45, 0.53),
    "L2-1e-5": (0.70, 0.14, 16.97, 1.22, 0.43),
    "L2-1e-6": (0.74, 0.11, 19.32, 0.96, 0.31),
    "L2-1e-7": (0.80, 0.08, 21.71, 0.80, 0.22),
    "L2-1e-8": (0.82, 0.06, 23.91, 0.64, 0.16),
}
TABLE_5 = {
    "P-norm+": (0.79, 0.07, 22.53, 0.77, 0.21),
    "P-norm+ Clip": (0.78, 0.08, 21.98, 0.80, 0.23),
    "W+": (0.83, 0.06, 24.43, 0.61, 0.14),
    "W+ Clip": (0.79, 0.07, 22.53, 0.75, 0.21),
}
SAME_RUN = {"W+": "none", "W+ Clip": "Clip-2"}  # rows of Table 5 that are runs of Table 6


def space(name: str, layers: int, w_dim: int) -> dict[str, object]:
    """The `optimize` entry of a row of the tables, its number carried over to L = layers, C = w_dim."""
    if name.startswith("P-norm+"):
        return {"name": "p-norm+", **({"clip": 2.0} if name.endswith("Clip") else {})}
    kind, _, number = name.partition("-")
    options = {
        "Clip": lambda n: {"clip": n},
        "Project": lambda n: {"project": n * math.sqrt(layers / PAPER_LAYERS)},
        "L2": lambda n: {"l2": n * PAPER_LAYERS * PAPER_W_DIM / (layers * w_dim)},
    }
    return {"name": "w+", **(options[kind](float(number)) if kind in options else {})}


def recipe_of(name: str, layers: int, w_dim: int, steps: int) -> Recipe:
    stage = {
        "init": "p-mean",
        "steps": steps,
        "lr": 0.1 if name.endswith("lr 0.1") else 0.01,
        "optimize": [space(name, layers, w_dim)],
        "terms": ["perceptual", "l2"],
    }
    return with_measures(Recipe.from_table({"name": name, "stages": [stage]}, name), steps)


def table(results: dict[str, Result], paper: dict[str, tuple[float, ...]]) -> str:
    """Ours beside the paper's figures, means over the images."""
    columns = ["regulariser", *(f"{name} ({which})" for name in METRICS for which in ("ours", "paper")), "radius"]
    rows = []
    for name, figures in paper.items():
        result = results[SAME_RUN.get(name, name)]
        pairs = zip(METRICS.values(), figures, strict=True)
        rows.append([name, *(v for own, value in pairs for v in (result.mean(own), value)), result.mean("radius")])
    return markdown_table(columns, rows)


def agreement(results: dict[str, Result], paper: dict[str, tuple[float, ...]]) -> str:
    """Spearman's rank correlation of our order of the rows with the paper's, and the pairs in another order."""
    rows, lines = [], []
    for i, (metric, own) in enumerate(METRICS.items()):
        ours = {name: results[SAME_RUN.get(name, name)].mean(own) for name in paper}
        theirs = {name: figures[i] for name, figures in paper.items()}
        pairs = [(a, b) for a, b in combinations(paper, 2) if theirs[a] != theirs[b]]
        swapped = [(a, b) for a, b in pairs if (ours[a] - ours[b]) * (theirs[a] - theirs[b]) <= 0]
        rank = spearmanr(list(ours.values()), list(theirs.values())).statistic
        rows.append([metric, own, float(rank), f"{len(pairs) - len(swapped)} of {len(pairs)}"])
        lines.append(f"- {metric}: {'; '.join(f'{a} / {b}' for a, b in swapped) or 'none'}")
    header = markdown_table(["metric", "ours", "Spearman", "pairs in the paper's order"], rows)
    return "\n\n".join([header, "Pairs in another order:", "\n".join(lines)])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=10, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--steps", default=1200, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=10, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True)
@click.option("--only", help="Rows, separated by ';': work on these and write no report.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(network: str, n: int, steps: int, batch: int, device: str, only: str | None, out: Path) -> None:
    """Repeat the reconstruction part of the P-norm paper's Tables 5 and 6."""
    bench = Bench(network, n, batch, device)
    layers, w_dim = bench.generator.num_ws, bench.generator.w_dim
    names = [*TABLE_6, *(name for name in TABLE_5 if name not in SAME_RUN)]
    chosen = [name for name in names if not only or name in only.split(";")]
    results = bench.run([Method(name, recipe_of(name, layers, w_dim, steps)) for name in chosen])
    if only:
        return
    parts = [f"## Table {k}\n\n{table(results, p)}\n\n{agreement(results, p)}" for k, p in ((6, TABLE_6), (5, TABLE_5))]
    scale = (
        f"L = {layers}, C = {w_dim}: Project-n is radius n x {math.sqrt(layers / PAPER_LAYERS):.3f}; the L2 weight is "
        f"x {PAPER_LAYERS * PAPER_W_DIM / (layers * w_dim):.2f}. Start: the origin of P-norm. VGG is our loss "
        "network's distance, LPIPS the judge's: orders can be compared, values cannot. Means over the images; rmse of "
        "[0,1] images; radius is the root mean square of the P-norm+ code. A pair counts as out "
        "of order when ours is a tie."
    )
    facts = provenance(
        bench.generator.device,
        f"image seeds from 0; portraits TEST_SEEDS[:{n}]",
        network=f"{bench.generator.name} ({bench.generator.fingerprint})",
        steps=steps,
        batch=batch,
    )
    write_report(out / "regularisers.md", "Regularisers of the P-norm paper", *parts, scale, facts)
    click.echo("\n\n".join(parts) + f"\nwritten to {out / 'regularisers.md'}")


if __name__ == "__main__":
    main()
