"""Do hyperplanes in W part the attributes of a WRanGAN as those of its base (Table 5 of WRanGAN)?

    python benchmarks/hyperplanes.py

Each generator draws the same z; the judge labels the pictures; a hyperplane in W is fitted to seven tenths of them and
tried on the rest, over several splits. Written is results/hyperplanes.md. What is not the same:

- The paper names neither the number of pictures nor which of them count. Here: the tenths with least and with most of
  an attribute (InterFaceGAN), and all pictures, parted at the median. Accuracies are balanced.
- Its attributes are five binary ones of a face classifier; here all that the judge reads (glasses: the two classes).
- The WRanGAN is taken as in inversion, epsilon 0, and as in training, epsilon anew for each picture.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from tables import markdown_table, provenance, write_report
from torch import Tensor
from tuning_sigma import draw_deltas

from latentopt.checkpoints.networks import load_generator
from latentopt.editing.interfacegan import fit_hyperplane
from latentopt.judge.network import Judge, load_judge
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.sampling import sample_w
from latentopt.statistics.sigma import SIGMA, Sigma
from latentopt.types import GeneratorInputs

PAPER = {"glasses": (99.8, 99.9), "smile": (99.5, 99.8)}  # of the attributes that both have; means are over all five
PAPER_MEAN = (94.2, 94.6)
BASE, ZERO, RANDOM = "base", "WRanGAN, epsilon 0", "WRanGAN"
SEED = 4100
BATCH = 50


@torch.no_grad()
def labels(generator: Generator, judge: Judge, w: Tensor, sigma: Sigma | None) -> Tensor:
    """The judge's readings [n,A] of the pictures of w [n,C]; with `sigma`, of weights drawn anew for each of them."""
    rng = torch.Generator().manual_seed(SEED)
    found = []
    for part in w.split(BATCH):
        deltas = {} if sigma is None else draw_deltas(sigma.tensors, len(part), rng, generator.device)
        pictures = generator.synthesis(GeneratorInputs(generator.broadcast(part), deltas=deltas))
        found.append(judge.read(pictures.float().clamp(-1, 1)).cpu())
    return torch.cat(found)


def accuracies(x: Tensor, values: Tensor, threshold: float | None, splits: int) -> Tensor:
    """Balanced accuracy, in percent, on what each of `splits` hyperplanes was not fitted to."""
    found = [fit_hyperplane(x, values, threshold, seed=seed).score for seed in range(splits)]
    return 100 * torch.tensor(found, dtype=torch.float64)


def table(judge: Judge, drawn: dict[str, tuple[Tensor, Tensor]], extremes: bool, splits: int) -> tuple[str, Tensor]:
    """Accuracy by attribute and generator with the verdict on the WRanGAN's; the means over splits [A,G]."""
    rows, means = [], []
    for k, name in enumerate(judge.attributes):
        found = []
        for x, values in drawn.values():
            binary = name in judge.binary_attributes
            threshold = 0.5 if binary else None if extremes else values[:, k].median().item()
            found.append(accuracies(x, values[:, k], threshold, splits))
        found = torch.stack(found)  # [G,splits]
        means.append(found.mean(dim=1))
        cells = [f"{scores.mean():.1f} ± {scores.std():.1f}" for scores in found]
        rows.append([name, *cells, *PAPER.get(name, (None, None)), verdict(found[0], found[-1])])
    means = torch.stack(means)
    verdicts = [row[-1] for row in rows]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in ("held", "even", "NOT held"))
    rows.append(["mean", *(f"{m:.1f}" for m in means.mean(dim=0).tolist()), *PAPER_MEAN, counts])
    columns = ["attribute", *drawn, "StyleGAN 2, paper", "WRanGAN, paper", "WRanGAN as high as base"]
    return markdown_table(columns, rows), means


def verdict(base: Tensor, wrangan: Tensor) -> str:
    """Of accuracies [splits] each: even where the means differ by less than the splits do."""
    gain = (wrangan.mean() - base.mean()).item()
    if abs(gain) <= (base.var() + wrangan.var()).sqrt().item():
        return "even"
    return "held" if gain > 0 else "NOT held"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--n", default=10_000, show_default=True, type=click.IntRange(min=1000), help="Pictures a generator.")
@click.option("--splits", default=5, show_default=True, type=click.IntRange(min=2), help="Hyperplanes an attribute.")
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(n: int, splits: int, out: Path) -> None:
    """Compare hyperplanes of the bundled base generator and of its WRanGAN."""
    judge = load_judge("portraits")
    base, wrangan = load_generator("portraits"), load_generator("portraits-wrangan")
    sigma, _ = given_or_found(SIGMA, wrangan)
    drawn = {}
    for who, generator, scales in ((BASE, base, None), (ZERO, wrangan, None), (RANDOM, wrangan, sigma)):
        w = sample_w(generator, SEED, n)
        drawn[who] = w.double().cpu(), labels(generator, judge, w, scales)
        click.echo(f"{who}: {n} pictures read")
    parts, claims = [], []
    for title, extremes in (("The tenths with least and most", True), ("All pictures, parted at the median", False)):
        text, means = table(judge, drawn, extremes, splits)
        parts.append(f"## {title}\n\n{text}")
        first, _, last = means.mean(dim=0).tolist()
        verdict = "held" if last >= first else "NOT held"
        claims.append(
            f"- {verdict}: WRanGAN's mean accuracy as high as the base's ({last:.1f}, {first:.1f}; {title.lower()})"
        )
        claims.append(f"- least accuracy of any attribute: {means.min().item():.1f} (paper 73.9, gender)")
    facts = provenance(
        base.device,
        f"{SEED} for z and epsilon, splits from 0",
        networks=f"base {base.name} ({base.fingerprint}), WRanGAN {wrangan.name} ({wrangan.fingerprint})",
        n=n,
        splits=splits,
    )
    write_report(
        out / "hyperplanes.md", "Hyperplanes in W (Table 5 of WRanGAN)", "\n".join(claims), *parts, MEANING, facts
    )
    click.echo("\n\n".join(["\n".join(claims), *parts]))


MEANING = (
    "Balanced accuracy in percent on held-out pictures, mean and deviation over the splits; even: the base and the "
    "last differ by less than their splits do. glasses are the two classes in both tables."
)

if __name__ == "__main__":
    main()
