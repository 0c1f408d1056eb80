"""How well do the methods restore fresh portraits, and from how little?

    python benchmarks/restore.py
    python benchmarks/restore.py --n 4 --steps 20 --levels 1 --methods robust,i2s

No network was trained on these portraits. Four tasks at five levels each and three compositions; every method gets the
same measurements. Distances to the true portrait are by the bundled perceptual network (`perceptual`), by pixels
(`psnr`) and by the judge, which no method sees (`identity`); those of the measurements by pixels (`measured`). Writes
`restore.md` and `restore.png` into the folder of the results.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import click
import torch
from inversions import Bench
from tables import markdown_table, provenance, write_report
from torch import Tensor
from torch.nn.functional import cosine_similarity

import latentopt
from latentopt.commands.progress import Progress
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import save_png
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics

METHODS = ("robust", "brgm", "ilo", "pulse", "i2s")  # i2s: the plain fit of w+
TASKS = {
    "upsampling": [f"down:{k}" for k in (2, 4, 8, 16, 32)],
    "inpainting": [f"mask:{{masks}}/{k}.png" for k in (1, 2, 3, 4, 5)],
    "denoising": [f"noise:poisson:{k}" for k in (96, 48, 24, 12, 6)],
    "JPEG": [f"jpeg:{k}" for k in (50, 30, 18, 12, 6)],
}
COMPOSED = ["down:2,noise:poisson:24", "noise:gaussian:20,jpeg:30", "mask:{masks}/2.png,down:2,jpeg:30"]
MEASURES = ("perceptual", "psnr", "identity", "measured", "seconds")
SHOWN = 3


def make_masks(folder: Path, size: tuple[int, int]) -> None:
    """Masks 1 to 5 hide 10, 20, 30, 40 and 50 per cent by random rectangles."""
    for level in range(1, 6):
        rng, mask = torch.Generator().manual_seed(level), torch.ones(3, *size)
        while (mask[0] < 0).float().mean() < 0.1 * level:
            height, width = (int(torch.randint(side // 16 + 1, side // 4 + 2, (1,), generator=rng)) for side in size)
            top, left = (int(torch.randint(0, side - 1, (1,), generator=rng)) for side in size)
            mask[:, top : top + height, left : left + width] = -1
        save_png(folder / f"{level}.png", mask)


def restored(bench: Bench, operator: str, recipe: Recipe) -> tuple[dict[str, list[float]], list[list[Tensor]]]:
    """A method's figures on all portraits for one operator, and some pictures."""
    values: dict[str, list[float]] = defaultdict(list)
    pictures: list[list[Tensor]] = []
    features = PerceptualFeatures(bench.generator, "bundled")
    for start in range(0, bench.n, bench.batch):
        truths = bench.targets[start : start + bench.batch]
        names = [f"{start + i:04d}" for i in range(len(truths))]
        began = time.perf_counter()
        found = latentopt.restore(bench.generator, truths, operator, recipe, simulate=True, names=names)
        seconds = (time.perf_counter() - began) / len(truths)
        images = torch.stack([one.image for one in found]).to(truths)
        with torch.no_grad():
            values["perceptual"] += features.distance(images, truths).tolist()
            embedded = [bench.judge.embed(x) for x in (images, truths)]
        values["psnr"] += metrics(images, truths)["psnr"].tolist()
        values["identity"] += cosine_similarity(*embedded).tolist()
        values["measured"] += [one.solutions[0].manifest["metrics"]["psnr"] for one in found]
        values["seconds"] += [seconds] * len(found)
        pictures += [[one.truth, one.measured, one.image] for one in found[: SHOWN - len(pictures)]]
    return values, pictures


def ranks(scores: dict[str, float]) -> dict[str, int]:
    """1 for the lowest."""
    return {name: 1 + sum(other < score for other in scores.values()) for name, score in scores.items()}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=64, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--steps", type=click.IntRange(min=1), help="Of every stage, instead of the recipes' own.")
@click.option("--levels", default=5, show_default=True, type=click.IntRange(1, 5), help="Levels of each task.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str, n: int, steps: int | None, levels: int, methods: str, batch: int, device: str, out: Path
) -> None:
    """Compare methods of restoration on fresh portraits."""
    bench, masks = Bench(network, n, batch, device), Path("work/benchmarks/masks")
    masks.mkdir(parents=True, exist_ok=True)
    make_masks(masks, bench.generator.resolution)
    recipes = {name: Recipe.load(name).in_every_stage(steps=steps) for name in methods.split(",")}
    tasks = [(f"{task} {i + 1}", op) for task, ops in TASKS.items() for i, op in enumerate(ops[:levels])]
    tasks += [(op.replace("{masks}/", ""), op) for op in COMPOSED]
    rows, sheet, places = [], [], defaultdict(list)
    with Progress(len(tasks) * len(recipes), "restoring", unit="task") as progress:
        for task, operator in tasks:
            scores = {}
            for name, recipe in recipes.items():
                values, pictures = restored(bench, operator.format(masks=masks), recipe)
                means = {key: torch.tensor(column).mean().item() for key, column in values.items()}
                scores[name] = means["perceptual"]
                rows.append([task, name, *(means[key] for key in MEASURES)])
                sheet.append([picture for row in pictures for picture in row])
                progress.advance(1)
            for name, rank in ranks(scores).items():
                places[name].append(rank)
    single = len(tasks) - len(COMPOSED)
    held = [
        f"- {name}: best in {sum(r == 1 for r in own[:single])}, best or second in {sum(r <= 2 for r in own[:single])} "
        f"of {single} tasks; of {len(COMPOSED)} compositions best or second in {sum(r <= 2 for r in own[single:])}"
        for name, own in places.items()
    ]
    facts = provenance(
        bench.generator.device, f"portraits TEST_SEEDS[:{n}]", steps=steps or "the recipes'", batch=batch
    )
    text = markdown_table(["task", "method", *MEASURES], rows)
    ranked = "By the perceptual distance to the truth:\n\n" + "\n".join(held)
    write_report(out / "restore.md", "Restoration of fresh portraits", text, ranked, MEANING, facts)
    labels = [f"{row[0]}: {row[1]}" for row in rows]
    contact_sheet(sheet, out / "restore.png", columns=["truth", "measurement", "result"] * SHOWN, labels=labels)
    click.echo(f"{text}\n\n{ranked}\nwritten to {out}")


MEANING = (
    "perceptual: LPIPS form on the bundled network, to the true portrait; psnr (dB): to it; identity: cosine of the "
    "judge's identity embeddings; measured: PSNR of the result's measurement to the given one; seconds: wall clock an "
    "image, in batches. Means over all portraits.\n\n![truths, measurements and results](restore.png)"
)


if __name__ == "__main__":
    main()
