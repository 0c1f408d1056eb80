"""Does the adapter for DeepInverse restore better than the package's own descent in the latent space of a generator?

    pip install 'latentopt[deepinv]'
    python benchmarks/deepinverse.py
    python benchmarks/deepinverse.py --n 2 --steps 5 --out out/trial

Both get the same measurements of fresh portraits by the package's physics, the same generator and as many passes of it.
`CSGMGenerator` (Bora et al. 2017) moves one z by Adam from a random start. What is done of one physics is kept in
`work/benchmarks/deepinverse`. Writes `deepinverse.md` into the folder of the results.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
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


def work(
    bench: Bench, name: str, recipe: Recipe, solutions: int, progress: Progress
) -> dict[str, dict[str, list[float]]]:
    """Figures [N] of both methods."""
    from deepinv.models import CSGMGenerator

    from latentopt.integrations.deepinv import StyleGANReconstructor

    generator, truths = bench.generator, (bench.targets + 1) / 2
    physics = physics_of(name, (generator.img_channels, *generator.resolution), generator.device)
    torch.manual_seed(0)  # the noise on the measurements, and where the package's descents start
    measured = [physics(truth[None]) for truth in truths]
    theirs = CSGMGenerator(Backbone(generator), inf_max_iter=passes_of(recipe, solutions), inf_tol=0.0).eval()
    ours = StyleGANReconstructor(generator, recipe, solutions=solutions)
    found: dict[str, list[Tensor]] = {"StyleGANReconstructor": [], "CSGMGenerator": []}
    for y in measured:
        found["CSGMGenerator"].append(theirs(y, physics).detach())
        progress.advance(1, physics=name, method="CSGMGenerator")
    for start in range(0, bench.n, bench.batch):
        part = measured[start : start + bench.batch]
        found["StyleGANReconstructor"] += list(ours(torch.cat(part), physics).split(1))
        progress.advance(len(part), physics=name, method="StyleGANReconstructor")
    return {method: figures(bench, physics, measured, images) for method, images in found.items()}


@torch.no_grad()
def figures(bench: Bench, physics: Any, measured: list[Tensor], images: list[Tensor]) -> dict[str, list[float]]:
    features, shown = PerceptualFeatures(bench.generator, "bundled"), torch.cat(images) * 2 - 1
    off = [(physics.A(x) - y).square().mean().sqrt().item() for x, y in zip(images, measured, strict=True)]
    return {
        "psnr": metrics(shown, bench.targets)["psnr"].tolist(),
        "perceptual": features.distance(shown.clamp(-1, 1), bench.targets).tolist(),
        "measured": off,
    }


def better(found: dict[str, dict[str, list[float]]], measure: str) -> float:
    """The share of images on which ours is better."""
    ours, theirs = (torch.tensor(found[name][measure]) for name in ("StyleGANReconstructor", "CSGMGenerator"))
    return ((ours > theirs) if measure == "psnr" else (ours < theirs)).float().mean().item()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=32, show_default=True, type=click.IntRange(min=1), help="Portraits.")
@click.option("--recipe", default="pnorm-map", show_default=True)
@click.option("--solutions", default=1, show_default=True, type=click.IntRange(min=1), help="Starts of ours.")
@click.option("--steps", type=click.IntRange(min=1), help="Of every stage, instead of the recipe's own.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="auto", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str, n: int, recipe: str, solutions: int, steps: int | None, batch: int, device: str, out: Path
) -> None:
    """Compare the adapter with the package's own reconstructor at equal generator passes."""
    try:
        import deepinv
    except ImportError:
        click.echo("left out: DeepInverse is not installed (pip install 'latentopt[deepinv]')")
        return
    bench, chosen, results = Bench(network, n, batch, device), Recipe.load(recipe).in_every_stage(steps=steps), {}
    with Progress(2 * n * len(PHYSICS), "restoring", unit="image") as progress:
        for name in PHYSICS:
            key = json.dumps([name, chosen.digest, solutions, n, batch, deepinv.__version__, *map(str, bench.context)])
            path = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
            if not path.is_file():
                write_text(path, json.dumps(work(bench, name, chosen, solutions, progress)))
            results[name] = json.loads(path.read_text())
    means = [
        [name, method, *(torch.tensor(values[key]).mean().item() for key in MEASURES)]
        for name, found in results.items()
        for method, values in found.items()
    ]
    shares = [[name, *(f"{100 * better(found, key):.0f} %" for key in MEASURES)] for name, found in results.items()]
    held = min(better(found, "perceptual") for found in results.values()) >= WANTED
    claim = f"{'held' if held else 'NOT held'}: nearer to the truth on at least {100 * WANTED:.0f} % of images"
    text = f"{markdown_table(['physics', 'method', *MEASURES], means)}\n\nImages on which the adapter is better:\n\n"
    text += f"{markdown_table(['physics', *MEASURES], shares)}\n\nExpected:\n\n- {claim} (perceptual, each physics)"
    counted = {"recipe": recipe, "solutions": solutions, "passes": passes_of(chosen, solutions)}
    facts = provenance(bench.generator.device, 0, **counted, deepinv=deepinv.__version__, n=n)
    write_report(out / "deepinverse.md", "The adapter for DeepInverse", text, MEANING, facts)
    click.echo(f"{text}\nwritten to {out}")


MEANING = (
    "psnr (dB) and perceptual (LPIPS form on the bundled network) are to the true portrait; measured: root mean square "
    "of the difference between the result's measurement and the given one, in [0,1]. Means over all portraits."
)


if __name__ == "__main__":
    main()
