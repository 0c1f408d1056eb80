"""Did the generator learn the portraits? Attributes, precision and recall of its samples, as read by the judge.

    python benchmarks/portraits.py --generator portraits --n 5000
    python benchmarks/portraits.py --snapshot train/snapshot.pt --n 2000

Samples are drawn without truncation. They are compared with portraits that no network was trained on, both read by the
same judge; the column `real` is the same comparison for as many other real portraits: the best that can be reached.
Writes `table.md`, `samples.png` and `attributes.png` into the folder of the results.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from latentopt.data.portraits import ATTRIBUTES, NAMES, TEST_SEEDS, portraits
from latentopt.evaluation.distribution import frechet_distance, ks_statistics, precision_recall
from latentopt.files.storage import write_text
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.judge.network import Judge, load_judge
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.types import GeneratorInputs

BATCH = 100
KS_TARGET, PRECISION_TARGET, RECALL_TARGET, FRECHET_TARGET = 0.10, 0.8, 0.4, 3.0


@dataclass(frozen=True)
class Judged:
    """What the judge says of a set of images: readings [N,A] and features [N,F]."""

    readings: Tensor
    features: Tensor


@dataclass(frozen=True)
class Comparison:
    """One set against the reference."""

    ks: dict[str, float]
    precision: float
    recall: float
    frechet: float


def snapshot_generator(path: Path) -> StyleGAN2:
    """The moving average of a training that may still be running."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    settings = GeneratorTraining(**json.loads(state["settings"]))
    config = StyleGAN2Config(settings.w_dim, settings.w_dim, settings.channels, mapping_layers=settings.mapping_layers)
    generator = StyleGAN2(config, f"snapshot at step {state['step']}")
    generator.load_state_dict(state["ema"])
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def samples(generator: StyleGAN2, n: int, noise: str, seed: int) -> Tensor:
    """n images [n,3,H,W] in [-1,1], without truncation."""
    torch.manual_seed(seed)
    images = []
    for start in range(0, n, BATCH):
        z = torch.randn(min(BATCH, n - start), generator.z_dim).to(generator.device)
        ws = generator.broadcast(generator.mapping(z))
        images.append(generator.synthesis(GeneratorInputs(ws), noise).float().clamp(-1, 1).cpu())
    return torch.cat(images)


@torch.no_grad()
def judged(judge: Judge, images: Tensor) -> Judged:
    device = judge.mean.device
    parts = [part.to(device) for part in images.split(BATCH)]
    readings = torch.cat([judge.read(part) for part in parts])
    return Judged(readings.cpu(), torch.cat([judge.features(part) for part in parts]).cpu())


def compare(reference: Judged, other: Judged) -> Comparison:
    covered = precision_recall(reference.features, other.features)
    ks = ks_statistics(reference.readings, other.readings, NAMES)
    return Comparison(ks, covered.precision, covered.recall, frechet_distance(reference.features, other.features))


def table(sets: dict[str, Judged], generated: Comparison, real: Comparison) -> str:
    """Markdown: one row an attribute, then the distances of the whole sets."""
    lines = [
        "| attribute | KS generated | KS real | mean generated | mean reference | std generated | std reference |",
        "|---|---|---|---|---|---|---|",
    ]
    moments = {
        name: (judged.readings.mean(dim=0).tolist(), judged.readings.std(dim=0).tolist())
        for name, judged in sets.items()
    }
    for i, name in enumerate(NAMES):
        high = " (high)" if generated.ks[name] > KS_TARGET else ""
        values = [moments[which][moment][i] for moment in (0, 1) for which in ("generated", "reference")]
        cells = [f"{generated.ks[name]:.3f}{high}", f"{real.ks[name]:.3f}", *(f"{value:.2f}" for value in values)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    worst = max(generated.ks, key=generated.ks.__getitem__)
    lines += ["", "| whole set | generated | real | target |", "|---|---|---|---|"]
    lines += [
        f"| largest KS | {generated.ks[worst]:.3f} ({worst}) | {max(real.ks.values()):.3f} | <= {KS_TARGET} |",
        f"| precision, k=3 | {generated.precision:.3f} | {real.precision:.3f} | >= {PRECISION_TARGET} |",
        f"| recall, k=3 | {generated.recall:.3f} | {real.recall:.3f} | >= {RECALL_TARGET} |",
        f"| Frechet distance in judge features | {generated.frechet:.3f} | {real.frechet:.3f} | <= {FRECHET_TARGET} |",
    ]
    return "\n".join(lines)


def save_histograms(sets: dict[str, Judged], path: Path) -> None:
    """One panel an attribute: how often each value is read in the generated and in the reference set."""
    from matplotlib.figure import Figure

    columns = 6
    rows = -(-len(NAMES) // columns)
    figure = Figure(figsize=(3 * columns, 2.1 * rows), layout="constrained")
    for i, attribute in enumerate(ATTRIBUTES):
        axes = figure.add_subplot(rows, columns, i + 1)
        margin = 0.15 * (attribute.high - attribute.low)
        bins = np.linspace(attribute.low - margin, attribute.high + margin, 33)
        for name, colour in (("reference", "0.6"), ("generated", "C0")):
            kind = "stepfilled" if name == "reference" else "step"
            values = sets[name].readings[:, i].clamp(bins[0], bins[-1]).numpy()
            axes.hist(values, bins, density=True, histtype=kind, color=colour, label=name)
        axes.set_title(attribute.name, fontsize=9)
        axes.tick_params(labelsize=7, labelleft=False)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=80)


def save_sheet(images: Tensor, path: Path) -> None:
    """The first 64 images, 8 x 8."""
    from torchvision.utils import save_image

    save_image(images[:64], path, nrow=8, padding=2, normalize=True, value_range=(-1, 1))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--generator", default="portraits", show_default=True, help="Bundled name or file.")
@click.option(
    "--snapshot", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of a training, instead."
)
@click.option("--n", default=5000, show_default=True, type=click.IntRange(64, len(TEST_SEEDS) // 2), help="Set size.")
@click.option("--noise", default="random", show_default=True, type=click.Choice(["random", "const"]))
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--judge", default="portraits", show_default=True, help="Bundled name or .safetensors file.")
@click.option("--out", default="benchmarks/results/portraits", show_default=True, type=click.Path(path_type=Path))
def main(
    generator: str, snapshot: Path | None, n: int, noise: str, seed: int, device: str, judge: str, out: Path
) -> None:
    """Judge a generator of the bundled domain against fresh portraits."""
    started = time.perf_counter()
    if snapshot:
        network = snapshot_generator(snapshot).to(device)
    else:
        from latentopt.checkpoints.networks import load_generator

        network = load_generator(generator, device=device)
    reader = load_judge(judge).to(device)
    images = samples(network, n, noise, seed)
    reference = judged(reader, portraits(TEST_SEEDS[:n], network.resolution)[0])
    other = judged(reader, portraits(TEST_SEEDS[n : 2 * n], network.resolution)[0])
    sets = {"generated": judged(reader, images), "reference": reference}
    text = table(sets, compare(reference, sets["generated"]), compare(reference, other))
    out.mkdir(parents=True, exist_ok=True)
    save_sheet(images, out / "samples.png")
    save_histograms(sets, out / "attributes.png")
    facts = (
        f"Generator: {network.name}. {n} images each, psi 1, noise {noise}, seed {seed}; "
        f"reference seeds {TEST_SEEDS[0]} to {TEST_SEEDS[n - 1]}.\n\n"
        f"Command: `python {' '.join(sys.argv)}`\n\n"
        f"Machine: {platform.platform()}, {platform.machine()}, torch {torch.__version__}, {device}, "
        f"{torch.get_num_threads()} threads; {time.perf_counter() - started:.0f} s.\n\n"
        "Samples: `samples.png`. Distributions of the readings: `attributes.png`.\n"
    )
    write_text(out / "table.md", f"# Portraits: what the generator learnt\n\n{text}\n\n{facts}")
    click.echo(text)
    click.echo(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
