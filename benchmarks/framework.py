"""All tables of the P-norm paper (Zhu et al. 2020, Tables 1 to 7) on fresh portraits, with the judge for the face
service.

    python benchmarks/framework.py
    python benchmarks/framework.py --n 8 --steps 10 --ablation-steps 5

Each row is inverted into `work/benchmarks/framework` and evaluated as by `latentopt evaluate`; both go on where they
were stopped. What is not the same:

- Every method of Tables 1 to 4 gets the same number of steps at the rate of its shipped recipe. Tables 5 to 7 have
  `--ablation-steps` at `--ablation-lr`, where the paper has 1200 at 0.01 on 10 images.
- Project-n and the L2 weights are carried over to the generator's layers (framework_paper.py).
- VGG is the loss network's distance (LPIPS form), LPIPS the judge's, FID the Frechet distance of the judge's features.
- The pose is the judge's yaw, edited by the bundled direction; its range is the reading at +2 less that at -2
  deviations. Gender is glasses, the judge's binary attribute: the share of images that change class at one deviation.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import click
import torch
from framework_paper import I2S, INTERPOLATION, OURS, POSE, PULSE, S2E, SAME_RUN, SG2, STYLE_MIX, TABLES, Table, space
from inversions import Bench
from scipy.stats import spearmanr
from tables import cell, markdown_table, provenance, write_report
from torch.nn.functional import normalize

from latentopt.data.portraits import TEST_SEEDS
from latentopt.editing.files import find_directions
from latentopt.evaluation.framework import evaluate
from latentopt.evaluation.subject import Amounts
from latentopt.files.storage import write_text
from latentopt.inverting.events import Finished
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import tensor_items
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

FOLDER = Path("work/benchmarks/framework")
RECIPES = {I2S: "i2s", PULSE: "pulse", S2E: "s2e", SG2: "sg2", OURS: "ii2s"}
OTHERS = ("hybrid-e4e", "pti", "wrangan")  # of the drift table alone, with their own steps
EDITED = ("yaw", "glasses")  # the pose and the binary attribute
SAMPLES = "the generator's samples"
SAMPLES_SEED = 99
LISTED = 8  # pairs that are out of order, those farthest apart in the paper first
AMOUNTS = Amounts(samples=32, paths=2, partners=1, lec=0)
PARTS = ("reconstruction", "latents", "pose", "attributes", "paths", "interpolation", "mixing")
Row = dict[str, float]


def recipes(bench: Bench, steps: int, ablation_steps: int, lr: float) -> dict[str, Recipe]:
    """The run of each row; rows of several tables that are one run are there once."""
    found = {}
    for name, recipe_name in RECIPES.items():
        recipe = Recipe.load(recipe_name)
        found[name] = replace(recipe, stages=tuple(replace(stage, steps=steps) for stage in recipe.stages))
    found |= {name: Recipe.load(name) for name in OTHERS}
    layers, w_dim = bench.generator.num_ws, bench.generator.w_dim
    for table in TABLES[4:]:
        for name in table.rows:
            if name in SAME_RUN:
                continue
            stage = {
                "init": "p-mean",
                "steps": ablation_steps,
                "lr": 10 * lr if name.endswith("x 10") else lr,
                "optimize": [space(name, layers, w_dim)],
                "terms": ["perceptual", "l2"],
            }
            found[name] = Recipe.from_table({"name": name, "stages": [stage]}, name)
    return found


def inverted(bench: Bench, name: str, recipe: Recipe) -> list[Inversion]:
    """All portraits by one recipe."""
    names = [str(seed) for seed in TEST_SEEDS[: bench.n]]
    inverter = Inverter(bench.generator, recipe, 0, folder_of(name))
    events = inverter.invert(tensor_items(bench.targets, names, None))
    found = {event.inversion.name: event.inversion for event in events if isinstance(event, Finished)}
    return [found[name] for name in names]


@torch.no_grad()
def samples(bench: Bench) -> list[Inversion]:
    """The generator's own pictures as results without an error: how edits are at their best."""
    generator = bench.generator
    manifest = {
        "generator": {"name": generator.name, "fingerprint": generator.fingerprint},
        "recipe": {"name": SAMPLES, "digest": ""},
    }
    found = []
    for i, ws in enumerate(generator.broadcast(sample_w(generator, SAMPLES_SEED, bench.n)).split(1)):
        inputs = GeneratorInputs(ws)
        image = generator.synthesis(inputs)[0].float().clamp(-1, 1)
        found.append(Inversion(str(i), image, image, inputs, "", [], manifest))
    return found


def folder_of(name: str) -> Path:
    return FOLDER / name.replace(" ", "-").replace(",", "")


def evaluated(bench: Bench, name: str, recipe: Recipe, results: list[Inversion]) -> Row:
    """The measures of one row, kept beside its results."""
    directions = {name: direction for name, direction in find_directions(bench.generator).items() if name in EDITED}
    lengths = {name: direction.vector.norm().item() for name, direction in directions.items()}
    key = json.dumps([recipe.digest, bench.n, *bench.context, lengths])
    path = folder_of(name) / "row.json"
    if path.is_file() and (kept := json.loads(path.read_text()))["key"] == key:
        return kept["row"]
    found = evaluate(results, bench.generator, directions=directions, parts=PARTS, amounts=AMOUNTS)
    row = {name: measure.value for name, measure in found.measures.items()}
    row["judge"] = judge_distance(bench, results)
    pose = found.curves["pose"]
    row |= {f"pose{s:+d}": mean for s, mean in zip(pose["strengths"], pose["mean"], strict=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"key": key, "row": row}))
    return row


@torch.no_grad()
def judge_distance(bench: Bench, results: list[Inversion]) -> float:
    """Mean squared distance of the judge's unit-length features."""
    images, targets = (torch.stack([getattr(r, kind) for r in results]) for kind in ("image", "target"))
    a, b = (normalize(bench.judge.features(x.to(bench.generator.device)), dim=1) for x in (images, targets))
    return (a - b).square().sum(dim=1).mean().item()


def table_text(table: Table, rows: dict[str, Row]) -> str:
    """Ours beside the paper's figures; below it, for each column, whether the paper's order of the rows holds here."""
    columns = [f"{name} ({who})" for name in table.columns for who in ("ours", "paper")]
    lines = []
    for name, figures in table.rows.items():
        own = rows[SAME_RUN.get(name, name)]
        lines.append([name, *(v for k, f in zip(table.columns.values(), figures, strict=True) for v in (own[k], f))])
    parts = [f"## {table.title}", markdown_table(["", *columns], lines), agreement(table, rows)]
    if "pose_range" in table.columns.values():
        parts.append(poses(table, rows))
    return "\n\n".join(parts)


def agreement(table: Table, rows: dict[str, Row]) -> str:
    """Rank correlation with the paper, the pairs of rows in its order, and those that are not."""
    lines = []
    for i, (column, own) in enumerate(table.columns.items()):
        paper = {name: figures[i] for name, figures in table.rows.items() if figures[i] is not None}
        ours = {name: rows[SAME_RUN.get(name, name)][own] for name in paper}
        pairs = [(a, b) for a, b in combinations(paper, 2) if paper[a] != paper[b]]
        other = [(a, b) for a, b in pairs if (ours[a] - ours[b]) * (paper[a] - paper[b]) <= 0]
        rank = float(spearmanr(list(ours.values()), list(paper.values())).statistic)
        other.sort(key=lambda pair: -abs(paper[pair[0]] - paper[pair[1]]))
        more = f"; {len(other) - LISTED} more" if len(other) > LISTED else ""
        broken = ("; ".join(f"{a} / {b}" for a, b in other[:LISTED]) or "none") + more
        lines.append([column, rank, f"{len(pairs) - len(other)} of {len(pairs)}", broken])
    return markdown_table(["column", "Spearman", "orders of pairs held", "not held"], lines)


def poses(table: Table, rows: dict[str, Row]) -> str:
    """Yaw by strength, in the judge's unit."""
    own = {name: rows[SAME_RUN.get(name, name)] for name in table.rows}
    lines = [[name, *(row[f"pose{s:+d}"] for s in range(-2, 3))] for name, row in own.items()]
    return "Yaw after the edit:\n\n" + markdown_table(["", *(f"{s:+d} sigma" for s in range(-2, 3))], lines)


def drift(rows: dict[str, Row]) -> str:
    """What an edit of yaw by one deviation also changes, which the judge can tell for each method."""
    columns = ("psnr", "identity", "response_yaw", "drift_yaw", "entanglement_yaw")
    names = [SAMPLES, *RECIPES, *OTHERS]
    lines = [[name, *(None if name == SAMPLES and c == "psnr" else rows[name][c] for c in columns)] for name in names]
    return markdown_table(["", *columns], lines)


def headlines(rows: dict[str, Row]) -> str:
    """What the paper concludes from its tables."""

    def best(column: str, higher: bool) -> str:
        names = list(RECIPES)
        return (max if higher else min)(names, key=lambda name: rows[name][column])

    def between(name: str, column: str) -> str:
        return f"{name} {cell(rows[name][column])}"

    claims = {}
    for column, higher, text in (
        ("psnr", True, "II2S reconstructs best (PSNR)"),
        ("perceptual", False, "II2S or I2S is best in perceptual distance"),
        ("interpolation_p-norm+_frechet", False, "II2S interpolates best in P-norm+"),
        ("interpolation_w+_frechet", False, "II2S interpolates best in W+"),
        ("pose_range", True, "S2E answers most to the pose edit"),
    ):
        winner = best(column, higher)
        wanted = {"pose_range": (S2E,), "perceptual": (OURS, I2S)}.get(column, (OURS,))
        claims[f"{text}: here {winner} ({between(winner, column)}, {between(OURS, column)})"] = winner in wanted
    for column, text in (
        ("pose_range", "pose"),
        ("path_length_end", "path length"),
        ("flipped_glasses", "attribute edits"),
    ):
        claims[f"II2S answers more than I2S ({text}: {between(OURS, column)}, {between(I2S, column)})"] = (
            rows[OURS][column] > rows[I2S][column]
        )
    fid = "interpolation_p-norm+_frechet"
    claims[f"clipping makes W+ interpolate better in P-norm+ ({between('none', fid)}, {between('Clip-2', fid)})"] = (
        rows["Clip-2"][fid] < rows["none"][fid]
    )
    claims[
        f"clipping makes W+ answer more to the pose edit ({between('none', 'pose_range')}, "
        f"{between('Clip-2', 'pose_range')})"
    ] = rows["Clip-2"]["pose_range"] > rows["none"]["pose_range"]
    return "\n".join(f"- {'held' if held else 'NOT held'}: {text}" for text, held in claims.items())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=60, show_default=True, type=click.IntRange(min=4), help="Portraits.")
@click.option("--steps", default=300, show_default=True, type=click.IntRange(min=1), help="Of Tables 1 to 4.")
@click.option("--ablation-steps", default=150, show_default=True, type=click.IntRange(min=1), help="Of Tables 5 to 7.")
@click.option("--ablation-lr", default=0.02, show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--only", help="Rows, separated by ';': work on and print these alone.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str, n: int, steps: int, ablation_steps: int, ablation_lr: float, dtype: str, only: str | None, out: Path
) -> None:
    """Re-make the P-norm paper's tables."""
    bench = Bench(network, n, 8, "cpu", dtype)
    judged = Bench(network, n, 8, "cpu")  # evaluation is in float32
    runs = recipes(bench, steps, ablation_steps, ablation_lr)
    chosen = [name for name in runs if not only or name in only.split(";")]
    rows = {SAMPLES: evaluated(judged, SAMPLES, next(iter(runs.values())), samples(judged))}
    for name in chosen:
        rows[name] = evaluated(judged, name, runs[name], inverted(bench, name, runs[name]))
        click.echo(
            f"{name}: " + ", ".join(f"{key} {cell(rows[name][key])}" for key in ("psnr", "pose_range", "radius"))
        )
    facts = provenance(
        bench.generator.device,
        f"image seeds from 0; portraits TEST_SEEDS[:{n}]; evaluation 0",
        network=f"{bench.generator.name} ({bench.generator.fingerprint})",
        steps=f"{steps}; Tables 5 to 7 {ablation_steps} at rate {ablation_lr:g}",
        inverted_in=dtype,
    )
    if only:
        columns = ("psnr", "radius", *POSE.values(), "pose_share", *INTERPOLATION.values(), *STYLE_MIX.values())
        lines = [[name, *(rows[name][column] for column in columns)] for name in chosen]
        click.echo(f"{markdown_table(['', *columns], lines)}\n\n{facts}")
        return
    text = [f"The paper's conclusions:\n\n{headlines(rows)}", *(table_text(table, rows) for table in TABLES)]
    text += ["## What an edit of yaw drags along", drift(rows)]
    write_report(out / "framework.md", "The P-norm paper's tables", *text, MEANING, facts)
    click.echo("\n\n".join(text))


MEANING = (
    "Frechet distances of 60 targets and 96 features are too high by the same amount in every row: orders can be "
    "compared, values cannot. RMSE of [0,1]. VGG: loss network, LPIPS: judge. Path lengths: end, towards samples, one "
    "for all layers (random) or another for each (random all), loss network; a short one is bad here, as the paper "
    "says. A pair counts as out of order when ours is a tie. response: deviations of the samples' yaw per deviation of "
    "the edit; drift: mean movement of the judge's other attributes, in deviations, at +-1; "
    "entanglement: drift over the movement of yaw."
)


if __name__ == "__main__":
    main()
