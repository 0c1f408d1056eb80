"""How well do the methods restore fresh portraits, and from how little?

    python benchmarks/restore.py                  # goes on where it was stopped
    python benchmarks/restore.py --rows 5         # five groups more, and the tables of what is there
    python benchmarks/restore.py --n 2 --steps 5 --levels 1 --methods robust,w+ --out out/trial

No network was trained on these portraits. Four tasks at five levels each and three compositions; every method gets the
same measurements. Distances to the true portrait are by the bundled perceptual network (`perceptual`), by pixels
(`psnr`) and by the judge, which no method sees (`identity`); those of the measurements by pixels (`measured`).
The figures of every group of `--batch` portraits by one method on one task are a line of `restore-runs.jsonl`, in the
folder of the results: a run with more portraits goes on from one with fewer, on another machine too. The pictures of
`restore.png` are of the first group, and kept in `work/benchmarks/restore`. Writes `restore.md` and `restore.png`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from inversions import Bench
from tables import markdown_table, provenance, write_report
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

import latentopt
from latentopt.commands.progress import Progress
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import save_png
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics

METHODS = {"robust": "robust", "pnorm-map": "pnorm-map", "brgm": "brgm", "ilo": "ilo", "pulse": "pulse", "w+": "i2s"}
MASKS = Path("work/benchmarks/masks")
TASKS = {
    "upsampling": [f"down:{k}" for k in (2, 4, 8, 16, 32)],
    "inpainting": [f"mask:{MASKS}/{k}.png" for k in (1, 2, 3, 4, 5)],
    "denoising": [f"noise:poisson:{k}" for k in (96, 48, 24, 12, 6)],
    "JPEG": [f"jpeg:{k}" for k in (50, 30, 18, 12, 6)],
}
COMPOSED = ["down:2,noise:poisson:24", "noise:gaussian:20,jpeg:30", f"mask:{MASKS}/2.png,down:2,jpeg:30"]
MEASURES = ("perceptual", "psnr", "identity", "measured", "seconds")
CACHE = Path("work/benchmarks/restore")
LEVEL_SHOWN = "3"


Values = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One method on one task."""

    task: str
    operator: str
    method: str
    recipe: Recipe

    def key(self, bench: Bench, group: range) -> str:
        """Of the results on that group of portraits: all that decides them."""
        parts = [self.recipe.measuring(self.operator).digest, group.start, group.stop, *map(str, bench.context)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


@dataclass
class Runs:
    """The figures that are there, by the key of the row and the group: {measure: [N]}."""

    path: Path

    def __post_init__(self) -> None:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.values: dict[str, Values] = {run["key"]: run["values"] for run in map(json.loads, lines)}

    def add(self, key: str, row: Row, group: range, values: Values) -> None:
        rounded = {name: [float(f"{value:.5g}") for value in column] for name, column in values.items()}
        run = {"key": key, "task": row.task, "method": row.method, "portraits": [group.start, group.stop]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(run | {"values": rounded}) + "\n")
        self.values[key] = rounded


def make_masks(size: tuple[int, int]) -> None:
    """Masks 1 to 5 hide 10, 20, 30, 40 and 50 per cent by random rectangles."""
    MASKS.mkdir(parents=True, exist_ok=True)
    for level in range(1, 6):
        rng, mask = torch.Generator().manual_seed(level), torch.ones(3, *size)
        while (mask[0] < 0).float().mean() < 0.1 * level:
            height, width = (int(torch.randint(side // 16 + 1, side // 4 + 2, (1,), generator=rng)) for side in size)
            top, left = (int(torch.randint(0, side - 1, (1,), generator=rng)) for side in size)
            mask[:, top : top + height, left : left + width] = -1
        save_png(MASKS / f"{level}.png", mask)


def sized(recipe: Recipe, steps: int | None, batch: int) -> Recipe:
    """The recipe with that many images at once."""
    recipe = recipe.in_every_stage(steps=steps)
    return replace(recipe, stages=tuple(replace(stage, batch=batch) for stage in recipe.stages))


def tasks(levels: int) -> dict[str, str]:
    """Operators by the name of the task."""
    single = {f"{task} {i + 1}": op for task, ops in TASKS.items() for i, op in enumerate(ops[:levels])}
    return single | {op.replace(f"{MASKS}/", ""): op for op in COMPOSED}


def work(bench: Bench, row: Row, group: range) -> Values:
    """A method on a group of portraits for one operator: figures [N]. The first portrait's pictures are kept."""
    truths = bench.targets[group.start : group.stop]
    names = [f"{i:04d}" for i in group]
    began = time.perf_counter()
    found = latentopt.restore(bench.generator, truths, row.operator, row.recipe, simulate=True, names=names)
    seconds = (time.perf_counter() - began) / len(truths)
    images = torch.stack([one.image for one in found]).to(truths)
    with torch.no_grad():
        perceptual = PerceptualFeatures(bench.generator, "bundled").distance(images, truths)
        embedded = [bench.judge.embed(x) for x in (images.clamp(-1, 1), truths)]
    if group.start == 0:
        pictures = {"truth": truths[0].cpu(), "measurement": found[0].measured, "image": images[0].cpu()}
        save_tensors(CACHE / f"{row.key(bench, group)}.safetensors", pictures)
    return {
        "perceptual": perceptual.tolist(),
        "psnr": metrics(images, truths)["psnr"].tolist(),
        "identity": cosine_similarity(*embedded).tolist(),
        "measured": [one.solutions[0].manifest["metrics"]["psnr"] for one in found],
        "seconds": [seconds] * len(found),
    }


def means(bench: Bench, row: Row, runs: Runs, groups: list[range]) -> dict[str, float]:
    """Of each measure over the portraits of those groups."""
    kept = [runs.values[row.key(bench, group)] for group in groups]
    return {name: torch.tensor([v for values in kept for v in values[name]]).mean().item() for name in MEASURES}


def pictures_of(bench: Bench, row: Row) -> dict[str, Tensor]:
    """The first portrait's; none where they were made on another machine."""
    path = CACHE / f"{row.key(bench, bench.groups[0])}.safetensors"
    return load_tensors(path)[0] if path.is_file() else {}


def report(bench: Bench, rows: list[Row], runs: Runs, out: Path, steps: int | None) -> str:
    """The tables of the portraits on which every row is there, or else of the rows that have the first group; pictures
    of the tasks at their middle level.
    """
    whole = [g for g in bench.groups if all(row.key(bench, g) in runs.values for row in rows)] or bench.groups[:1]
    done = [row for row in rows if all(row.key(bench, group) in runs.values for group in whole)]
    found = {(row.task, row.method): means(bench, row, runs, whole) for row in done}
    text = markdown_table(
        ["task", "method", *MEASURES], [[*key, *(figures[m] for m in MEASURES)] for key, figures in found.items()]
    )
    ranked = "By the perceptual distance to the truth, of the tasks that all methods have done:\n\n" + ranking(
        rows, found
    )
    facts = provenance(
        bench.generator.device,
        f"portraits TEST_SEEDS, {', '.join(f'{g.start} to {g.stop - 1}' for g in whole)}",
        portraits=sum(map(len, whole)),
        network=f"{bench.generator.name} ({bench.generator.fingerprint})",
        steps=steps or "the recipes'",
        batch=bench.batch,
        dtype=bench.dtype,
    )
    write_report(out / "restore.md", "Restoration of fresh portraits", text, ranked, MEANING, facts)
    draw(
        {(row.task, row.method): pictures_of(bench, row) for row in done},
        list(dict.fromkeys(row.method for row in rows)),
        out / "restore.png",
    )
    return f"{text}\n\n{ranked}\nwritten to {out}; {len(done)} of {len(rows)} rows"


def ranking(rows: list[Row], found: dict[tuple[str, str], dict[str, float]]) -> str:
    """How often each method is best, and best or second: of the tasks by themselves, and of the compositions."""
    methods = list(dict.fromkeys(row.method for row in rows))
    places: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for task in dict.fromkeys(row.task for row in rows):
        if all((task, method) in found for method in methods):
            scores = {method: found[task, method]["perceptual"] for method in methods}
            for method, score in scores.items():
                places[method, task in COMPOSED or ".png" in task].append(sum(s < score for s in scores.values()))
    lines = []
    for method in methods:
        single, composed = places[method, False], places[method, True]
        lines.append(
            f"- {method}: best in {single.count(0)}, best or second in {sum(place < 2 for place in single)} of "
            f"{len(single)} tasks; of {len(composed)} compositions best or second in {sum(p < 2 for p in composed)}"
        )
    return "\n".join(lines)


def draw(found: dict[tuple[str, str], dict[str, Tensor]], methods: list[str], path: Path) -> None:
    """The first portrait: its measurement and what each method makes of it, a task a line."""
    lines = {}
    for task in dict.fromkeys(task for task, _ in found):
        pictures = {method: found[task, method] for method in methods if found.get((task, method))}
        if len(pictures) == len(methods) and (task.endswith(LEVEL_SHOWN) or ":" in task):
            first = pictures[methods[0]]
            size = first["truth"].shape[-2:]
            seen = interpolate(first["measurement"][None], size, mode="nearest")[0]
            lines[task] = [first["truth"], seen, *(pictures[method]["image"] for method in methods)]
    if lines:
        contact_sheet([*lines.values()], path, columns=["truth", "measurement", *methods], labels=list(lines))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=64, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--steps", type=click.IntRange(min=1), help="Of every stage, instead of the recipes' own.")
@click.option("--levels", default=5, show_default=True, type=click.IntRange(1, 5), help="Levels of each task.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--rows", "at_most", type=click.IntRange(min=0), help="Work on that many groups more, and report.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str,
    n: int,
    steps: int | None,
    levels: int,
    methods: str,
    at_most: int | None,
    batch: int,
    device: str,
    dtype: str,
    out: Path,
) -> None:
    """Compare methods of restoration on fresh portraits."""
    bench = Bench(network, n, batch, device, dtype)
    make_masks(bench.generator.resolution)
    recipes = {name: sized(Recipe.load(METHODS[name]), steps, batch) for name in methods.split(",")}
    rows = [Row(task, op, name, recipe) for task, op in tasks(levels).items() for name, recipe in recipes.items()]
    jobs = [(row, group) for group in bench.groups for row in rows]
    runs = Runs(out / "restore-runs.jsonl")
    left = [(row, group) for row, group in jobs if row.key(bench, group) not in runs.values][:at_most]
    with Progress(len(left), "restoring", unit="group") as progress:
        for row, group in left:
            runs.add(row.key(bench, group), row, group, work(bench, row, group))
            progress.advance(1, task=row.task, method=row.method)
    click.echo(report(bench, rows, runs, out, steps))


MEANING = (
    "perceptual: LPIPS form on the bundled network, to the true portrait; psnr (dB): to it; identity: cosine of the "
    "judge's identity embeddings; measured: PSNR of the result's measurement to the given one; seconds: wall clock an "
    "image, in batches. Means over all portraits. w+: the recipe i2s, a plain fit. Levels go from mild to strong.\n\n"
    "![truths, measurements and results](restore.png)"
)


if __name__ == "__main__":
    main()
