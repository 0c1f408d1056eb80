"""Do inversions answer edits as the generator's own samples do, and what else changes?

    python benchmarks/edits.py
    python benchmarks/edits.py --n 4 --recipes ii2s,fast-pnorm

Fresh portraits are inverted by whole recipes. Each result, and as many samples of the generator, is edited by -1 and 1
along five directions, and the judge reads what moved. Writes `edits.md` and, of two recipes, `edits.png`: portraits,
inversions and edits side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from tables import markdown_table, provenance, write_report
from torch import Tensor

import latentopt
from latentopt.checkpoints.networks import load_generator
from latentopt.data.portraits import TEST_SEEDS, portraits
from latentopt.editing.direction import Direction
from latentopt.editing.files import find_directions
from latentopt.evaluation.measure import bootstrap_interval
from latentopt.generators.stylegan2 import StyleGAN2
from latentopt.inverting.events import Event, Progressed
from latentopt.judge.network import Judge, load_judge
from latentopt.judge.protocol import read
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

EDITS = ("smile", "yaw", "glasses", "hair_length", "beard")
RECIPES = ("ii2s", "hybrid-e4e", "i2s", "fast", "ii2s-pnorm", "fast-pnorm")
SHOWN = ("ii2s", "hybrid-e4e")  # on the sheet; the last one in the small one
STRENGTHS = {"smile": 1.5, "yaw": 1.5, "glasses": 1.5, "hair_length": 1.5, "beard": 1.5}  # on the sheet
PICTURES = 6
IN_README = (1, 3, 4, 8)  # of the portraits
SAMPLES, SAMPLES_SEED = 256, 4077
FOLDER = Path("work/benchmarks/edits")
LEAST_ANSWER, MOST_DRIFT = 0.7, 0.2


@dataclass(frozen=True)
class Answers:
    """To edits of one direction: `own` movement [N] of the attribute for a strength of 1, `moved` [N] the same without
    its sign, and `drift` [N] of the others on average, in deviations of the generator's samples.
    """

    own: Tensor
    moved: Tensor
    drift: Tensor


class Reader:
    """Reads attributes in deviations of the generator's samples, probabilities as log-odds."""

    def __init__(self, generator: StyleGAN2, judge: Judge) -> None:
        self.generator, self.judge = generator, judge
        self.samples = generator.broadcast(sample_w(generator, SAMPLES_SEED, SAMPLES))  # [S,L,C]
        self.std = self._readings(self.samples).std(dim=0)  # [A]

    @torch.no_grad()
    def _readings(self, ws: Tensor) -> Tensor:
        """[N,A]"""
        pictures = [self.generator.synthesis(GeneratorInputs(part)).clamp(-1, 1) for part in ws.split(32)]
        found = read(self.judge, torch.cat(pictures))
        binary = torch.tensor([name in self.judge.binary_attributes for name in self.judge.attributes])
        return torch.where(binary, found.clamp(1e-4, 1 - 1e-4).logit(), found)

    def answers(self, direction: Direction, ws: Tensor) -> Answers:
        column = self.judge.attributes.index(direction.name)
        before = self._readings(ws)
        changes = [
            (self._readings(direction.edit(GeneratorInputs(ws), s).ws) - before) / self.std * s for s in (-1.0, 1.0)
        ]
        change = torch.stack(changes)  # [2,N,A], signed so that an answer is positive
        others = torch.arange(change.shape[2]) != column
        own = change[..., column]  # [2,N]
        return Answers(own.mean(dim=0), own.abs().mean(dim=0), change[..., others].abs().mean(dim=(0, 2)))


def inverted(generator: StyleGAN2, name: str, n: int, batch: int) -> list[Inversion]:
    """Of the recipe on n fresh portraits, as far as they are not there yet."""
    recipe = Recipe.load(name)
    sized = replace(recipe, stages=tuple(replace(stage, batch=batch) for stage in recipe.stages))
    seeds = TEST_SEEDS[:n]

    def tell(event: Event) -> None:
        if isinstance(event, Progressed) and event.step.step % 50 == 0:
            print(f"{name}: {event.batch.keys[0]}: step {event.step.step}", flush=True)

    folder = FOLDER / f"{name}-{sized.digest}-{generator.fingerprint[:8]}"
    targets = portraits(seeds, generator.resolution)[0]
    return latentopt.invert(generator, targets, sized, names=[str(s) for s in seeds], out=folder, on_event=tell)


def share(results: Tensor, samples: Tensor) -> str:
    """The mean over results [N] as a share of that over samples [S], with a 95 % interval over the results."""
    low, high = bootstrap_interval(results)
    own = samples.mean().item()
    return f"{results.mean().item() / own:.2f} ({low / own:.2f} to {high / own:.2f})"


def answers_table(found: Mapping[str, Mapping[str, Answers]], psnr: Mapping[str, float]) -> str:
    samples = found["samples"]
    rows = []
    for name, answers in found.items():
        shares = [share(answers[edit].own, samples[edit].own) for edit in EDITS]
        drifts = [(answers[edit].drift.mean() / answers[edit].moved.mean()).item() for edit in EDITS]
        mean = sum((answers[e].own.mean() / samples[e].own.mean()).item() for e in EDITS) / len(EDITS)
        rows.append([name, psnr.get(name), mean, *(f"{s}; {d:.3f}" for s, d in zip(shares, drifts, strict=True))])
    return markdown_table(["recipe", "PSNR, median", "answer, mean of all", *EDITS], rows)


def expectations(found: Mapping[str, Mapping[str, Answers]]) -> str:
    lines = []
    for name in SHOWN:
        for edit in EDITS if name in found else ():
            answer = (found[name][edit].own.mean() / found["samples"][edit].own.mean()).item()
            drift = (found[name][edit].drift.mean() / found[name][edit].moved.mean()).item()
            for what, value, holds in (
                (f"{LEAST_ANSWER} of the samples' answer or more", answer, answer >= LEAST_ANSWER),
                (f"drift of {MOST_DRIFT} of the movement or less", drift, drift <= MOST_DRIFT),
            ):
                lines.append(f"- {'held' if holds else 'NOT held'}: {name}, {edit}: {what} ({value:.2f})")
    return "\n".join(lines)


@torch.no_grad()
def draw_sheet(
    generator: StyleGAN2,
    results: Mapping[str, Sequence[Inversion]],
    directions: Mapping[str, Direction],
    path: Path,
    images: Sequence[int] = range(PICTURES),
) -> None:
    """A row an image and recipe: the portrait, its inversion, and that edited."""
    rows, labels = [], []
    for i in images:
        for name, found in results.items():
            inversion = found[i]
            edited = [directions[e].edit(inversion.inputs, STRENGTHS[e]) for e in EDITS]
            pictures = [generator.synthesis(inputs)[0].clamp(-1, 1) for inputs in edited]
            rows.append([inversion.target, inversion.image, *pictures])
            labels.append(name)
    columns = ["portrait", "inverted", *(f"{e.replace('_', ' ')} +{STRENGTHS[e]:g}" for e in EDITS)]
    contact_sheet(rows, path, columns=columns, labels=labels if len(results) > 1 else ())


@click.command()
@click.option("--network", default="portraits", show_default=True, help="A bundled generator or a file.")
@click.option("--n", default=24, show_default=True, type=click.IntRange(min=2), help="Portraits.")
@click.option("--batch", default=24, show_default=True, type=click.IntRange(min=1))
@click.option("--recipes", default=",".join(RECIPES), show_default=True, help="Names, joined by commas.")
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--out", default=Path("benchmarks/results"), type=click.Path(path_type=Path), show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="Also a small sheet of hybrid-e4e alone.")
def main(network: str, n: int, batch: int, recipes: str, dtype: str, out: Path, picture: Path | None) -> None:
    generator = load_generator(network).requires_grad_(False)
    directions = {name: found for name, found in find_directions(generator).items() if name in EDITS}
    if dtype != "float32":
        generator.set_precision(getattr(torch, dtype)).set_memory_format(torch.channels_last)
    results = {name: inverted(generator, name, n, batch) for name in recipes.split(",")}
    generator.set_precision(torch.float32)
    reader = Reader(generator, load_judge("portraits"))
    codes = {name: torch.cat([i.inputs.ws for i in found]) for name, found in results.items()}
    found = {
        name: {edit: reader.answers(directions[edit], ws) for edit in EDITS}
        for name, ws in {"samples": reader.samples, **codes}.items()
    }
    psnr = {name: _median_psnr(those) for name, those in results.items()}
    parts = [f"{ABOUT}\n\n{answers_table(found, psnr)}", expectations(found)]
    if shown := {name: results[name] for name in SHOWN if name in results}:
        draw_sheet(generator, shown, directions, out / "edits.png", range(min(PICTURES, n)))
        if picture is not None:
            last = {SHOWN[-1]: results[SHOWN[-1]]}
            draw_sheet(generator, last, directions, picture, [i for i in IN_README if i < n])
        parts.insert(1, "![Portraits, inversions and edits](edits.png)")
    seed = f"portraits TEST_SEEDS[:{n}], samples {SAMPLES_SEED}"
    facts = provenance(generator.device, seed, network=f"{generator.name} ({generator.fingerprint})", precision=dtype)
    write_report(out / "edits.md", "Edits of inversions", *parts, facts)


def _median_psnr(results: Sequence[Inversion]) -> float:
    found = [(i.image - i.target).square().mean() for i in results]
    return (10 * torch.log10(4 / torch.stack(found).median())).item()


ABOUT = (
    "For each edit: how far its attribute moves when the latents do by one unit of strength, as a share of what it "
    "does in the generator's own samples (95 % intervals over the portraits); after the semicolon, how far the other "
    "attributes move on average, as a share of the edited one's movement. The judge reads; probabilities count as "
    "log-odds, and each attribute in its deviations over the generator's samples."
)


if __name__ == "__main__":
    main()
