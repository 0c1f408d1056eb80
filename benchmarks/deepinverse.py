"""Does the adapter for DeepInverse restore better than the package's own descent in the latent space of a generator?

    pip install 'latentopt[deepinv]'
    python benchmarks/deepinverse.py
    python benchmarks/deepinverse.py --n 2 --steps 5 --out out/trial

Both get the same measurements of fresh portraits by the package's physics, the same generator and as many passes of it.
`CSGMGenerator` (Bora et al. 2017) moves one z by Adam from a random start, and runs from several. What is done
is kept in `work/benchmarks/deepinverse`. Writes `deepinverse.md` into the folder of the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
from inversions import Bench
from tables import markdown_table, provenance, write_report
from torch import Tensor, nn

from latentopt.commands.progress import Progress
from latentopt.files.storage import write_text
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.initializers.lmmse import SAMPLES, STRENGTHS
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.recipe.recipe import Recipe
from latentopt.results.distortion import metrics
from latentopt.types import GeneratorInputs

CACHE = Path("work/benchmarks/deepinverse")
PHYSICS = ("inpainting", "downsampling by 8", "Gaussian blur", "compressed sensing")
MEASURES = ("psnr", "perceptual", "measured")
SIGMA = 0.02  # of the noise on every measurement, of [0,1]
WANTED = 0.95  # share of images that should be better

Advance = Callable[[int], object]


class Backbone(nn.Module):
    """The generator as `CSGMGenerator` takes it: z [1,nz,1,1] -> pictures in [0,1]."""

    def __init__(self, generator: StyleGAN2) -> None:
        super().__init__()
        self.generator, self.nz = generator, generator.z_dim

    def forward(self, z: Tensor) -> Tensor:
        w = self.generator.mapping(z.flatten(1))
        return (self.generator.synthesis(GeneratorInputs(self.generator.broadcast(w))) + 1) / 2


def physics_of(name: str, shape: tuple[int, int, int], device: torch.device) -> Any:
    """One of PHYSICS for images of that shape, with noise."""
    from deepinv import physics

    noise: dict[str, Any] = {"noise_model": physics.GaussianNoise(SIGMA), "device": device}
    rng = torch.Generator(device).manual_seed(0)
    if name == "inpainting":
        mask = torch.ones(shape, device=device)
        mask[:, shape[1] // 4 : shape[1] // 2, shape[2] // 4 : 3 * shape[2] // 4] = 0
        return physics.Inpainting(img_size=shape, mask=mask, **noise)
    if name == "downsampling by 8":
        return physics.Downsampling(img_size=shape, factor=8, filter="bicubic", **noise)
    if name == "Gaussian blur":
        line = (-(torch.arange(-6.0, 7.0) ** 2) / 8).softmax(0)
        return physics.BlurFFT(img_size=shape, filter=(line[:, None] * line)[None, None].to(device), **noise)
    return physics.CompressedSensing(m=shape[0] * shape[1] * shape[2] // 32, img_size=shape, rng=rng, **noise)


def passes_of(recipe: Recipe, solutions: int) -> int:
    """Of the generator, for one image alone. The samples of its start count, though a batch draws them once."""
    init = recipe.stages[0].init
    drawn = init.get("n", SAMPLES) + len(STRENGTHS) if init["name"] == "lmmse" else 0
    return drawn + solutions * sum(stage.steps + 1 for stage in recipe.stages)


@dataclass(frozen=True)
class Measured:
    """What one physics measures of every portrait."""

    physics: Any
    values: list[Tensor]  # N of [1,...]

    @classmethod
    def of(cls, bench: Bench, name: str) -> Measured:
        generator = bench.generator
        physics = physics_of(name, (generator.img_channels, *generator.resolution), generator.device)
        torch.manual_seed(0)  # of the noise
        return cls(physics, [physics(truth[None]) for truth in (bench.targets + 1) / 2])


def theirs(bench: Bench, measured: Measured, passes: int, start: int, advance: Advance) -> list[Tensor]:
    """Pictures [1,C,H,W] in [0,1] that the package's own descent finds, from the starts of one seed."""
    from deepinv.models import CSGMGenerator

    torch.manual_seed(start)
    descent = CSGMGenerator(Backbone(bench.generator), inf_max_iter=passes, inf_tol=0.0).eval()
    found = []
    for y in measured.values:
        found.append(descent(y, measured.physics).detach())
        advance(1)
    return found


def ours(bench: Bench, measured: Measured, recipe: Recipe, solutions: int, advance: Advance) -> list[Tensor]:
    from latentopt.integrations.deepinv import StyleGANReconstructor

    reconstructor = StyleGANReconstructor(bench.generator, recipe, solutions=solutions)
    found: list[Tensor] = []
    for group in bench.groups:
        part = torch.cat([measured.values[i] for i in group])
        found += list(reconstructor(part, measured.physics).split(1))
        advance(len(part))
    return found


@torch.no_grad()
def figures(bench: Bench, measured: Measured, images: list[Tensor]) -> dict[str, list[float]]:
    """The MEASURES [N] of pictures [1,C,H,W] in [0,1]."""
    features, shown = PerceptualFeatures(bench.generator, "bundled"), torch.cat(images) * 2 - 1
    pairs = zip(images, measured.values, strict=True)
    off = [(measured.physics.A(x) - y).square().mean().sqrt().item() for x, y in pairs]
    return {
        "psnr": metrics(shown, bench.targets)["psnr"].tolist(),
        "perceptual": features.distance(shown.clamp(-1, 1), bench.targets).tolist(),
        "measured": off,
    }


def kept(key: Sequence[object], made: Callable[[], dict[str, list[float]]]) -> dict[str, list[float]]:
    """What is in the cache under that key, made where nothing is."""
    path = CACHE / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]}.json"
    if not path.is_file():
        write_text(path, json.dumps(made()))
    return json.loads(path.read_text())


@dataclass(frozen=True)
class Compared:
    """Figures of one physics by measure: of ours [N], of the package's own from every start [R,N]."""

    ours: dict[str, Tensor]
    theirs: dict[str, Tensor]

    def shares(self, measure: str) -> tuple[float, float]:
        """How often ours is better than one run of theirs, and than the mean of an image's runs."""
        sign = 1 if measure == "psnr" else -1
        ours, theirs = sign * self.ours[measure], sign * self.theirs[measure]
        return (ours > theirs).float().mean().item(), (ours > theirs.mean(dim=0)).float().mean().item()


@dataclass(frozen=True)
class Comparison:
    """Ours by a recipe beside theirs from as many random starts as `starts`, at the same number of passes."""

    bench: Bench
    recipe: Recipe
    solutions: int
    starts: int
    context: Sequence[object]  # what else decides the results

    @property
    def passes(self) -> int:
        return passes_of(self.recipe, self.solutions)

    def run(self, name: str, advance: Advance) -> Compared:
        measured = Measured.of(self.bench, name)
        key = ["ours", name, self.recipe.digest, self.solutions, self.bench.batch, *self.context]
        found = kept(
            key, lambda: figures(self.bench, measured, ours(self.bench, measured, self.recipe, self.solutions, advance))
        )
        others = [self.from_start(name, measured, start, advance) for start in range(self.starts)]
        stacked = {measure: torch.tensor([one[measure] for one in others]) for measure in MEASURES}
        return Compared({measure: torch.tensor(found[measure]) for measure in MEASURES}, stacked)

    def from_start(self, name: str, measured: Measured, start: int, advance: Advance) -> dict[str, list[float]]:
        return kept(
            ["theirs", name, self.passes, start, *self.context],
            lambda: figures(self.bench, measured, theirs(self.bench, measured, self.passes, start, advance)),
        )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=32, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--recipe", default="pnorm-map", show_default=True)
@click.option("--solutions", default=1, show_default=True, type=click.IntRange(min=1), help="Starts of ours.")
@click.option("--starts", default=3, show_default=True, type=click.IntRange(min=1), help="Of theirs, each a run.")
@click.option("--physics", "names", default=",".join(PHYSICS), show_default=True, help="Which, with commas between.")
@click.option("--steps", type=click.IntRange(min=1), help="Of every stage, instead of the recipe's own.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str,
    n: int,
    recipe: str,
    solutions: int,
    starts: int,
    names: str,
    steps: int | None,
    batch: int,
    device: str,
    out: Path,
) -> None:
    """Compare the adapter with the package's own reconstructor at equal generator passes."""
    try:
        import deepinv
    except ImportError:
        click.echo("left out: DeepInverse is not installed (pip install 'latentopt[deepinv]')")
        return
    bench, chosen = Bench(network, n, batch, device), Recipe.load(recipe).in_every_stage(steps=steps)
    context = [n, deepinv.__version__, *map(str, bench.context)]
    comparison, results = Comparison(bench, chosen, solutions, starts, context), {}
    wanted = [name for name in PHYSICS if name in names.split(",")]
    if not wanted:
        raise click.UsageError(f"--physics {names!r}: none of {', '.join(PHYSICS)}")
    with Progress((1 + starts) * n * len(wanted), "restoring", unit="image") as progress:
        for name in wanted:
            results[name] = comparison.run(name, partial(progress.advance, physics=name))
    text = report(results)
    counted = {"recipe": recipe, "solutions": solutions, "passes": comparison.passes, "starts of theirs": starts}
    facts = provenance(bench.generator.device, 0, **counted, deepinv=deepinv.__version__, n=n)
    write_report(out / "deepinverse.md", "The adapter for DeepInverse", text, MEANING, facts)
    click.echo(f"{text}\nwritten to {out}")


def report(results: dict[str, Compared]) -> str:
    means = [
        [name, method, *(values[key].mean().item() for key in MEASURES)]
        for name, found in results.items()
        for method, values in (("StyleGANReconstructor", found.ours), ("CSGMGenerator", found.theirs))
    ]
    shares = {name: [found.shares(key) for key in MEASURES] for name, found in results.items()}
    each = list(shares.values())
    shares["all"] = [tuple(map(fmean, zip(*column, strict=True))) for column in zip(*shares.values(), strict=True)]
    percent = [[[name, *(f"{100 * pair[i]:.0f} %" for pair in row)] for name, row in shares.items()] for i in range(2)]
    tables = [markdown_table(["physics", *MEASURES], rows) for rows in percent]
    claims = [
        f"- {'held' if min(row[column][i] for row in each) >= WANTED else 'NOT held'}: {what}, beside {other}"
        for column, what in (
            (MEASURES.index("perceptual"), "to the truth"),
            (MEASURES.index("measured"), "to the measurement"),
        )
        for i, other in enumerate(("one run of theirs", "the mean of their runs"))
    ]
    return "\n\n".join(
        [
            markdown_table(["physics", "method", *MEASURES], means),
            "How often the adapter is better than one run of the package's descent (every image, every start):",
            tables[0],
            "Images on which the adapter is better than the package's descent is on average over its starts:",
            tables[1],
            f"Expected: nearer on at least {100 * WANTED:.0f} %, in each physics",
            "\n".join(claims),
        ]
    )


MEANING = (
    "psnr (dB) and perceptual (LPIPS form on the bundled network) are to the true portrait; measured: root mean square "
    "of the difference between the result's measurement and the given one, in [0,1]. Means over all portraits. The "
    "package's descent begins at a random z, and what a measurement does not show is then drawn by chance; ours begins "
    "at the same place in every run."
)


if __name__ == "__main__":
    main()
