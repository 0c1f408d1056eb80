"""Short trainings of the portraits generator side by side: one line of figures for each, all judged alike.

    python benchmarks/generator_trials.py plain=train/plain heads=train/heads --n 2000 --cache train/judged

Each folder is one that `latentopt train generator` or `scripts/warm_start.py` writes. The judge is never trained on.
What was measured is kept in `figures-<n>.jsonl` in the cache, a line each time: the lines of one name are its curve.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from portraits import BATCH, Judged, compare, judged, samples, save_sheet
from tables import markdown_table

from latentopt.checkpoints.networks import load_stylegan2
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.judge.network import Judge, load_judge
from latentopt.types import GeneratorInputs

MISSED = 0.10
COLUMNS = (
    "trial",
    "images",
    "images/s",
    "Frechet",
    "precision",
    "recall",
    "largest KS",
    f"KS > {MISSED:.2f}",
    "noise rms",
)


@dataclass(frozen=True)
class Trial:
    """Figures of one generator. `images` were seen since the start of this training; `rate` is images a second.

    `ks` is the Kolmogorov-Smirnov statistic of each attribute, `noise` the effect of noise inputs.
    """

    name: str
    images: int
    rate: float
    frechet: float
    precision: float
    recall: float
    worst: str
    ks: dict[str, float]
    noise: float
    command: str

    @property
    def row(self) -> tuple[object, ...]:
        """The values of `COLUMNS`."""
        missed = sum(value > MISSED for value in self.ks.values())
        largest = f"{self.ks[self.worst]:.3f} {self.worst}"
        figures = (f"{x:.3f}" for x in (self.precision, self.recall))
        return self.name, self.images, f"{self.rate:.1f}", f"{self.frechet:.2f}", *figures, largest, missed, self.noise


def reference(judge: Judge, n: int, resolution: tuple[int, int], cache: Path) -> Judged:
    """Readings and features of the first n test portraits, kept in `cache`."""
    path = cache / f"reference-{resolution[0]}px-{n}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        seen = judged(judge, portraits(TEST_SEEDS[:n], resolution)[0])
        save_tensors(path, asdict(seen))
    return Judged(**load_tensors(path)[0])


@torch.no_grad()
def noise_effect(generator: StyleGAN2, seed: int = 0, n: int = BATCH) -> float:
    """Root mean square difference of pixels in [-1,1] between two noise draws for the same n latents."""
    torch.manual_seed(seed)
    inputs = GeneratorInputs(
        generator.broadcast(generator.mapping(torch.randn(n, generator.z_dim).to(generator.device)))
    )
    first, second = (generator.synthesis(inputs, "random").clamp(-1, 1) for _ in range(2))
    return float((first - second).square().mean().sqrt())


def images_a_second(log: Path, batch: int) -> float:
    """The median over the records of a training's log; NaN where there are none."""
    seconds = [json.loads(line)["seconds"] for line in log.read_text().splitlines()] if log.exists() else []
    return batch / float(torch.tensor(seconds).median()) if seconds else float("nan")


def measure(name: str, folder: Path, judge: Judge, n: int, seed: int, cache: Path, device: str) -> Trial:
    """Judge the moving average in `folder`; a sheet of samples goes into the cache."""
    generator = load_stylegan2(str(folder / "generator.safetensors")).to(device)
    card = generator.card
    images = samples(generator, n, "random", seed)
    found = compare(reference(judge, n, generator.resolution, cache), judged(judge, images))
    save_sheet(images, cache / f"{name}-{card['images_seen']}.png")
    rate = images_a_second(folder / "log.jsonl", card["settings"]["batch"])
    return Trial(
        name, card["images_seen"], rate, found.frechet, found.precision, found.recall,
        max(found.ks, key=found.ks.__getitem__), found.ks, noise_effect(generator), str(card.get("command", "")),
    )  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("trials", nargs=-1)
@click.option("--n", default=2000, show_default=True, type=click.IntRange(64, len(TEST_SEEDS)), help="Set size.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--cache", default="train/judged", show_default=True, type=click.Path(path_type=Path))
def main(trials: tuple[str, ...], n: int, seed: int, device: str, cache: Path) -> None:
    """Judge each of TRIALS (name=folder) and print the table of all that were ever judged with this cache."""
    judge, figures = load_judge("portraits").to(device), cache / f"figures-{n}.jsonl"
    for trial in trials:
        name, folder = trial.split("=", 1)
        found = measure(name, Path(folder), judge, n, seed, cache, device)
        with figures.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")
    lines = figures.read_text(encoding="utf-8").splitlines() if figures.exists() else []
    click.echo(markdown_table(COLUMNS, [Trial(**json.loads(line)).row for line in lines]))


if __name__ == "__main__":
    main()
