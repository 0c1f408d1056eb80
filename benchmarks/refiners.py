"""StyleRes and WarpRes on fresh portraits: Tables 1 and 2 of the WarpRes paper, and the error against the true edit.

    python benchmarks/refiners.py
    python benchmarks/refiners.py --n 200 --folder train --unguided train/without/refiner-warpres.safetensors

Each encoder alone, with StyleRes and with WarpRes; WarpRes's three ways to a flow; pivotal tuning for scale (on few
portraits, `--tuned`, since it takes minutes an image). Smile and pose are edited both ways. Set distances are Frechet's
in the judge's features, identity is the judge's. Of a smile that is added, the portraits that do not smile are edited
and compared with others that do, as in the paper; the other way round where it is taken away; all are turned.

The truth of an edit is drawn: the same portrait with the attribute moved as far as the judge sees the edit move e4e's
own picture, so that no method gains by moving less. Finished groups are kept in work/benchmarks. Writes `refiners.md`
and `refiners.png`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import torch
from encoder_arms import Found, Work, work_through
from inversions import Bench
from tables import markdown_table, provenance, write_report
from torch import Tensor

from latentopt.data.portraits import ATTRIBUTES, NAMES, TEST_SEEDS, portraits, render, sample_attributes
from latentopt.editing.files import find_directions
from latentopt.encoders.files import load_encoder
from latentopt.evaluation.distribution import frechet_distance
from latentopt.evaluation.image_metrics import PerceptualDistance, distortion, on_levels
from latentopt.inverting.batch import Batch
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import to_uint8
from latentopt.protocols import Refiner
from latentopt.recipe.recipe import Recipe
from latentopt.registry import REFINERS
from latentopt.results.redrawing import Redraw
from latentopt.statistics.streams import image_seed
from latentopt.types import GeneratorInputs

EDITS = {"smile +": ("smile", 1.5), "smile -": ("smile", -1.5), "pose +": ("yaw", 1.5), "pose -": ("yaw", -1.5)}
STEPS = ("plain", *EDITS)  # what is drawn of each image, in the order of the points that are kept
OTHERS = 400  # further portraits, which smiles are compared with
TUNED = ("fast-tune", "pti")
SHOWN = 6


@dataclass
class Refining(Bench):
    """The portraits, their true edits, and the networks that measure."""

    @cached_property
    def attributes(self) -> Tensor:
        return sample_attributes(TEST_SEEDS[: self.n])

    @cached_property
    def distance(self) -> PerceptualDistance:
        return PerceptualDistance(self.generator)

    @cached_property
    def directions(self) -> dict:
        found = find_directions(self.generator)
        return {edit: (found[name], strength) for edit, (name, strength) in EDITS.items()}

    @cached_property
    def smiling(self) -> tuple[Tensor, Tensor]:
        """Features of further portraits that smile, and of those that do not."""
        images, attributes = portraits(TEST_SEEDS[self.n : self.n + OTHERS], self.generator.resolution)
        found = torch.cat([self.judge.features(x.to(self.generator.device)) for x in images.split(self.batch)])
        smiles = attributes[:, NAMES.index("smile")] > 0
        return found[smiles], found[~smiles]

    def edited(self, base: GeneratorInputs, edit: str) -> GeneratorInputs:
        direction, strength = self.directions[edit]
        return direction.edit(base, strength)

    def truths(self, group: range) -> dict[str, Tensor]:
        """The portraits as each edit should leave them, [b,3,H,W]."""
        base = load_encoder("e4e", self.generator).encode(self.generator, self.targets[group.start : group.stop])[-1]
        before = self.judge.read(self.generator.synthesis(base).clamp(-1, 1))
        found = {}
        for edit, (name, _) in EDITS.items():
            after = self.judge.read(self.generator.synthesis(self.edited(base, edit)).clamp(-1, 1))
            moved = (after - before)[:, self.judge.attributes.index(name)].cpu()
            column, attributes = NAMES.index(name), self.attributes[group.start : group.stop].clone()
            low, high = ATTRIBUTES[column].low, ATTRIBUTES[column].high
            attributes[:, column] = (attributes[:, column] + moved).clamp(low, high)
            found[edit] = render(attributes, self.generator.resolution).to(self.generator.device)
        return found


Invert = Callable[[Refining, Tensor, range], GeneratorInputs]


def refined_work(invert: Invert, refiner: Refiner | None) -> Work:
    """Invert, refine and edit a group of portraits, and measure each picture of them."""

    @torch.no_grad()
    def work(bench: Refining, group: range) -> tuple[dict, Tensor]:
        target = bench.targets[group.start : group.stop]
        truths = bench.truths(group)
        began = time.process_time()
        base = invert(bench, target, group)
        redraw = Redraw(base, target, refiner)
        images = bench.generator.synthesis(redraw(base)).float()
        seconds = (time.process_time() - began) / len(target)
        points = {0: (measures(bench, images, target, None), seconds)}
        for k, edit in enumerate(EDITS, start=1):
            drawn = bench.generator.synthesis(redraw(bench.edited(base, edit))).float()
            points[k] = (measures(bench, drawn, target, truths[edit]), 0.0)
        return points, torch.from_numpy(to_uint8(images)).movedim(-1, 1)

    return work


def measures(bench: Refining, images: Tensor, target: Tensor, truth: Tensor | None) -> dict[str, list]:
    """Of pictures [b,3,H,W]: their likeness to the target, to the true edit, and what the judge makes of them."""
    images, target = on_levels(images), on_levels(target)
    values = {
        "l2": (images - target).square().mean(dim=(1, 2, 3)),
        "ssim": distortion(images, target)["ssim"],
        "lpips": bench.distance(images, target),
        "identity": (bench.judge.embed(images) * bench.judge.embed(target)).sum(dim=1),
        "features": bench.judge.features(images),
    }
    if truth is not None:
        truth = on_levels(truth)
        values |= {
            "true lpips": bench.distance(images, truth),
            "true l2": (images - truth).square().mean(dim=(1, 2, 3)),
        }
    return {name: value.cpu().tolist() for name, value in values.items()}


def by_encoder(kind: str) -> Invert:
    return lambda bench, target, group: load_encoder(kind, bench.generator).encode(bench.generator, target)[-1]


def by_recipe(name: str) -> Invert:
    """Inverted and tuned one group at a time, by a recipe."""

    def invert(bench: Refining, target: Tensor, group: range) -> GeneratorInputs:
        keys = tuple(str(TEST_SEEDS[i]) for i in group)
        with torch.enable_grad():
            run = Batch(bench.generator, Recipe.load(name), target, keys, tuple(image_seed(0, key) for key in keys))
            for _ in run.steps():
                pass
        return run.result

    return invert


def row(bench: Refining, name: str, found: Found) -> list[Any]:
    """A line of Table 2, with the errors against the true edits."""
    points = [found.points[k] for k in range(len(STEPS))]
    features = [torch.tensor(point.values["features"]) for point in points]
    count = len(features[0])
    targets = torch.cat([bench.judge.features(x) for x in bench.targets[:count].split(bench.batch)])
    smiles = bench.attributes[:count, NAMES.index("smile")] > 0
    smiling, serious = bench.smiling
    sets = {"plain": (targets, features[0]), "pose +": (targets, features[3]), "pose -": (targets, features[4])}
    sets |= {"smile +": (smiling, features[1][~smiles]), "smile -": (serious, features[2][smiles])}
    distance = {key: frechet_distance(a.cpu(), b) if min(len(a), len(b)) > 1 else None for key, (a, b) in sets.items()}
    plain = points[0]
    return [
        name,
        count,
        plain.mean("seconds"),
        distance["plain"],
        plain.mean("ssim"),
        plain.mean("lpips"),
        *(distance[edit] for edit in EDITS),
        *(points[k].mean("identity") for k in range(1, len(STEPS))),
        *((points[k].mean("true lpips") + points[k + 1].mean("true lpips")) / 2 for k in (1, 3)),
    ]


COLUMNS = (
    "method", "images", "seconds", "Frechet", "SSIM", "LPIPS form",
    *(f"Frechet {edit}" for edit in EDITS), *(f"identity {edit}" for edit in EDITS), "true smile", "true pose",
)  # fmt: skip


def expectations(rows: dict[str, list[Any]], encoders: list[str]) -> str:
    """What was expected of each encoder, and whether it held."""
    lines = []
    for kind in encoders:
        alone, style, warp = (rows.get(f"{kind}{more}") for more in ("", " + StyleRes", " + WarpRes"))
        if alone is None or style is None or warp is None:
            continue
        lpips, pose, seconds = COLUMNS.index("LPIPS form"), COLUMNS.index("true pose"), COLUMNS.index("seconds")
        share = warp[lpips] / alone[lpips]
        identity = [sum(line[COLUMNS.index(f"identity pose {sign}")] for sign in "+-") / 2 for line in (style, warp)]
        claims = {
            f"WarpRes reconstructs {kind} better than StyleRes ({warp[lpips]:.4g}, {style[lpips]:.4g})": warp[lpips]
            < style[lpips],
            f"StyleRes reconstructs better than {kind} alone ({style[lpips]:.4g}, {alone[lpips]:.4g})": style[lpips]
            < alone[lpips],
            f"WarpRes is nearer to the true pose than StyleRes ({warp[pose]:.4g}, {style[pose]:.4g})": warp[pose]
            < style[pose],
            f"WarpRes keeps the identity of turned heads better ({identity[1]:.4g}, {identity[0]:.4g})": identity[1]
            > identity[0],
            f"WarpRes leaves a quarter of {kind}'s LPIPS form at most ({share:.0%})": share <= 0.25,
            f"WarpRes takes at most 0.15 s an image ({warp[seconds]:.3g})": warp[seconds] <= 0.15,
        }
        lines += [f"- {'held' if held else 'NOT held'}: {text}" for text, held in claims.items()]
    return "\n".join(lines)


@torch.no_grad()
def picture(bench: Refining, refiners: dict[str, Refiner | None], path: Path) -> None:
    """Portraits with glasses: the target, e4e, refined; then each of them turned, and the truth."""
    worn = bench.attributes[:, NAMES.index("glasses")] > 0.5
    rows = []
    for i in worn.nonzero().flatten()[:SHOWN].tolist():
        target = bench.targets[i : i + 1]
        base = load_encoder("e4e", bench.generator).encode(bench.generator, target)[-1]
        turned = bench.edited(base, "pose +")
        redraws = [Redraw(base, target, refiner) for refiner in refiners.values()]
        drawn = [bench.generator.synthesis(redraw(x)) for x in (base, turned) for redraw in redraws]
        truth = bench.truths(range(i, i + 1))["pose +"]
        rows.append([x[0].float().clamp(-1, 1).cpu() for x in (target, *drawn, truth)])
    if rows:
        names = list(refiners)
        columns = ["target", *names, *(f"{name}, turned" for name in names), "truth, turned"]
        contact_sheet(rows, path, columns=columns)


@click.command()
@click.option("--network", default="portraits", show_default=True)
@click.option("--n", default=200, show_default=True, help="Fresh portraits.")
@click.option("--encoders", default="psp,e4e,restyle-e4e", show_default=True)
@click.option(
    "--folder", help="Of refiner-styleres.safetensors and refiner-warpres.safetensors; the bundled ones else."
)
@click.option("--unguided", help="A WarpRes refiner that was trained without the flow loss.")
@click.option("--flow-path", help="The flow network for WarpRes with the teacher at run time; the bundled one else.")
@click.option("--tuned", default=16, show_default=True, help="Portraits that the generator is tuned to; 0: none.")
@click.option("--batch", default=8, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--out", default="benchmarks/results", show_default=True, type=click.Path(path_type=Path))
def main(
    network: str,
    n: int,
    encoders: str,
    folder: str | None,
    unguided: str | None,
    flow_path: str | None,
    tuned: int,
    batch: int,
    device: str,
    out: Path,
) -> None:
    bench = Refining(network, n, batch, device)

    def made(name: str, **options: Any) -> Refiner:
        path = options.pop("path", None) or (None if folder is None else f"{folder}/refiner-{name}.safetensors")
        given = {key: value for key, value in (options | {"path": path}).items() if value is not None}
        return REFINERS.create(name, bench.generator, **given)

    style, warp = made("styleres"), made("warpres")
    kinds = encoders.split(",")
    arms: dict[str, tuple[Invert, Refiner | None]] = {}
    for kind in kinds:
        for more, refiner in (("", None), (" + StyleRes", style), (" + WarpRes", warp)):
            arms[f"{kind}{more}"] = (by_encoder(kind), refiner)
    arms["e4e + WarpRes, flow from pictures"] = (by_encoder("e4e"), made("warpres", flow="warps", flow_path=flow_path))
    if unguided is not None:
        arms["e4e + WarpRes, trained without flow loss"] = (by_encoder("e4e"), made("warpres", path=unguided))
    rows = {}
    for name, (invert, refiner) in arms.items():
        key = ["refiners", name, None if refiner is None else dict(refiner.record), flow_path, list(EDITS.items())]
        rows[name] = row(bench, name, work_through(bench, name, key, refined_work(invert, refiner)))
    few = Refining(network, min(tuned, n), batch, device)
    for name in TUNED if tuned else ():
        key = ["refiners", name, Recipe.load(name).digest, list(EDITS.items())]
        rows[name] = row(few, name, work_through(few, name, key, refined_work(by_recipe(name), None)))
    table = markdown_table(COLUMNS, list(rows.values()))
    held = expectations(rows, kinds)
    picture(bench, {"e4e": None, "StyleRes": style, "WarpRes": warp}, out / "refiners.png")
    about = "\n\n".join((__doc__ or "").split("\n\n")[2:])
    records = {name: refiner.record["fingerprint"] for name, refiner in (("StyleRes", style), ("WarpRes", warp))}
    facts = provenance(bench.generator.device, f"portraits from {TEST_SEEDS.start}", portraits=n, refiners=records)
    write_report(out / "refiners.md", "StyleRes and WarpRes on portraits", about.strip(), table, held, facts)
    click.echo(f"{table}\n\n{held}")


if __name__ == "__main__":
    main()
