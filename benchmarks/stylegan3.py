"""StyleGAN3: is the placement of a picture found, are the nets equivariant, how fast are the operators?

    python benchmarks/stylegan3.py                    # all parts; goes on where it was stopped
    python benchmarks/stylegan3.py --only placement --count 100 --minutes 25
    python benchmarks/stylegan3.py --only report      # the tables of what is there

T and R are the reference's nets at 32 pixels, of random weights; `portraits` is a small T that learned to draw
portraits (`stylegan3_train.py`). Their own samples are drawn at random placements, within 25 degrees and 0.3 widths,
and inverted.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from stylegan3_nets import CONTRAST, PORTRAITS, small_net
from stylegan3_operators import equivariance, speed
from tables import markdown_table, provenance, write_report

from latentopt.api import invert
from latentopt.files.storage import write_text
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.geometry.moves import inverse_move, move_matrix, parts_of
from latentopt.pictures.images import from_uint8, to_uint8
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.sampling import w_std
from latentopt.types import GeneratorInputs

ANGLE, SHIFT = 25.0, 0.3
CLOSE = (0.5, 0.01)  # degrees, widths
PARTS = ("placement", "equivariance", "speed", "report")
RESULTS = Path(__file__).parent / "results"
WORK = Path("work/benchmarks/stylegan3")
GROUP = 8  # samples that are inverted together from the mean of w
KNOWN = 0.1  # of the radius of the cloud of w: how far the code is off, where it is known
STEPS = {"T": 150, "R": 60, PORTRAITS: 150}  # of the stage of w, where the code is known; the recipe's own elsewhere
RUNS, RUN = 2, 20  # of the search where the code is known, and their steps
ARMS = {  # name: (what is known of the code or place, whether the sample is moved, whether placement is optimised)
    "moved": ("known", True, True),
    "not moved": ("known", False, True),
    "moved, without placement": ("known", True, False),
    "moved, from the mean of w": ("mean", True, True),
    "not moved, from the mean of w": ("mean", False, True),
    "moved, from the mean of w, without placement": ("mean", True, False),
    "moved, from the mean of w at the true place": ("place", True, False),
}


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Parts to do; all by default.")
@click.option("--count", default=100, show_default=True, help="Samples of each net, code known.")
@click.option("--from-mean", default=4, show_default=True, help="Samples of each net, from the mean of w.")
@click.option("--first", default=0, show_default=True, help="Number of the first sample.")
@click.option("--arms", default=";".join(ARMS), show_default=True, help="Of the placement, joined by semicolons.")
@click.option("--minutes", default=25.0, show_default=True, help="Of CPU; no sample is begun after so long.")
@click.option("--nets", default=f"T,R,{PORTRAITS}", show_default=True, help="Of the placement, joined by commas.")
@click.option("--size", default=256, show_default=True, help="Official size that the speed is measured at; 0: none.")
@click.option("--channel-base", default=32768, show_default=True, help="Its channel base.")
def main(
    only: tuple[str, ...],
    count: int,
    from_mean: int,
    first: int,
    arms: str,
    minutes: float,
    nets: str,
    size: int,
    channel_base: int,
) -> None:
    torch.set_num_threads(1)
    wanted = only or PARTS
    if "placement" in wanted:
        place_all(count, from_mean, first, minutes, nets.split(","), arms.split(";"))
    for part, tell in (("equivariance", equivariance), ("speed", lambda: speed(size, channel_base))):
        if part in wanted:
            write_text(WORK / f"{part}.md", tell())
    report({"placement", "report"} & set(wanted) != set())


def place_all(
    count: int, from_mean: int, begin: int, minutes: float, kinds: Sequence[str], arms: Sequence[str]
) -> None:
    until, nets = time.process_time() + 60 * minutes, {kind: small_net(kind) for kind in kinds}
    for first in range(begin, begin + max(count, from_mean), GROUP):
        for kind, generator in nets.items():
            for arm in arms:
                start, is_moved, with_placement = ARMS[arm]
                last = min(first + GROUP, begin + (count if start == "known" else from_mean))
                paths = {
                    i: WORK / f"{kind}-{i:03d}-{arm.replace(', ', '-').replace(' ', '-')}.json"
                    for i in range(first, last)
                }
                missing = [i for i, path in paths.items() if not path.exists()]
                for samples in [missing] * bool(missing) if start == "mean" else [[i] for i in missing]:
                    if time.process_time() > until:
                        return
                    found = placed(generator, samples, start, is_moved, with_placement, STEPS[kind])
                    for i, figures in zip(samples, found, strict=True):
                        figures |= {"net": kind, "sample": i, "arm": arm}
                        write_text(paths[i], json.dumps(figures))
                        click.echo(json.dumps(figures))


def sample(generator: StyleGAN3, number: int, is_moved: bool) -> tuple[GeneratorInputs, GeneratorInputs]:
    """A sample at its place, and its code as it is where it is known: KNOWN of the radius of the cloud of w off."""
    rng = torch.Generator().manual_seed(1000 + number)
    w = generator.mapping(torch.randn(1, generator.z_dim, generator=rng))
    angle = (torch.rand(1, generator=rng) * 2 - 1) * math.radians(ANGLE)
    shift = (torch.rand(1, 2, generator=rng) * 2 - 1) * SHIFT
    move = move_matrix(angle, shift) if is_moved else torch.eye(3)[None]
    off = torch.randn(w.shape, generator=rng)
    known = w + KNOWN * w_std(generator) * off / off.norm()
    return GeneratorInputs(generator.broadcast(w), transform=move), GeneratorInputs(generator.broadcast(known))


def placed(
    generator: StyleGAN3, samples: Sequence[int], start: str, is_moved: bool, with_placement: bool, steps: int
) -> list[dict[str, Any]]:
    """Samples inverted by the recipe sg3: how far off placement and code are, and the loss that it ends with. Where
    something is known it is one sample, and not rounded to a saved picture's levels.
    """
    true, known = (GeneratorInputs.cat(x) for x in zip(*(sample(generator, i, is_moved) for i in samples), strict=True))
    with torch.no_grad():
        targets = generator.synthesis(true).clamp(-1, 1)
    if start == "mean":
        targets = from_uint8(to_uint8(targets))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.safetensors"
        at_place = GeneratorInputs(generator.broadcast(generator.w_avg[None]), transform=true.index([0]).transform)
        begun = at_place if start == "place" else known.index([0])
        begun.save(path, {"fingerprint": generator.fingerprint})
        recipe = recipe_of(start, str(path), with_placement, steps)
        found = invert(generator, targets, recipe, seed=samples[0], names=[f"sample {i}" for i in samples])
    seconds = (time.process_time() - started) / len(samples)
    off = [apart(generator, true.index([i]), inversion.inputs) for i, inversion in enumerate(found)]
    losses = [min(entry["best"] for entry in inversion.history) for inversion in found]
    codes = torch.cat([inversion.inputs.ws.mean(dim=1) for inversion in found]) - true.ws.mean(dim=1)  # [N,C]
    radii = (codes.norm(dim=1) / w_std(generator)).tolist()
    return [
        {"angle": angle, "shift": shift, "loss": loss, "code": radius, "seconds": seconds}
        for (angle, shift), loss, radius in zip(off, losses, radii, strict=True)
    ]


def recipe_of(start: str, path: str, with_placement: bool, steps: int) -> Recipe:
    """The recipe sg3 by saturated-l2 alone (random nets have no domain), from the mean of w; a code or place that is
    known is the start. Where the code is, angle, shift and w then move for so many steps.
    """
    recipe = Recipe.load("sg3")
    changes: dict[tuple[str | int, ...], Any] = {("stages", i, "terms"): ["saturated-l2"] for i in (0, 1)}
    if start == "known":
        changes |= {("stages", 0, "steps"): steps, ("stages", 1, "steps"): 0}
        changes["stages", 0, "init"] = {
            "name": "placement",
            "path": path,
            "code": False,
            "runs": RUNS,
            "steps": RUN,
        }
    if not with_placement:
        changes["stages", 0, "init"] = "mean" if start == "mean" else {"name": "file", "path": path}
        changes |= {("stages", i, "optimize"): [space] for i, space in enumerate(("w", "w+"))}
    return recipe.changed(changes)


def apart(generator: StyleGAN3, true: GeneratorInputs, found: GeneratorInputs) -> tuple[float, float]:
    """Degrees and widths between where two codes and moves draw the plane of features. Row 0 of ws moves it too."""
    places = []
    for inputs in (true, found):
        style = generator.styles(inputs)["input"]
        place = generator.synthesis.input.placed(style, inputs.transform)  # [1,2,3]
        places.append(torch.cat([place, torch.tensor([[[0.0, 0.0, 1.0]]])], dim=1))
    angle, shift, _ = parts_of(inverse_move(places[0]) @ places[1])
    return math.degrees(angle.abs().item()), shift.norm().item()


def report(with_placement: bool) -> None:
    """The placement a page a net, since each takes an hour; the rest on a page of its own."""
    runs = [json.loads(path.read_text()) for path in sorted(WORK.glob("*.json"))] if with_placement else []
    facts = provenance(torch.device("cpu"), "1000 + sample")
    for kind in sorted({run["net"] for run in runs}):
        title, page = f"StyleGAN3, {kind}: the placement of the picture", f"stylegan3-placement-{kind.lower()}.md"
        write_report(RESULTS / page, title, placement_table(runs, kind), facts)
    if parts := [text for text in map(kept, ("equivariance", "speed")) if text]:
        write_report(RESULTS / "stylegan3.md", "StyleGAN3", *parts, facts)


def kept(part: str) -> str:
    path = WORK / f"{part}.md"
    return f"## {part.capitalize()}\n\n{path.read_text()}" if path.is_file() else ""


def quantiles(values: list[float], digits: int) -> str:
    """Median and 95th percentile."""
    found = torch.quantile(torch.tensor(values), torch.tensor([0.5, 0.95])).tolist()
    return " / ".join(f"{value:.{digits}g}" for value in found)


def placement_table(runs: list[Mapping[str, Any]], kind: str) -> str:
    rows = []
    for arm in ARMS:
        those = [run for run in runs if (run["net"], run["arm"]) == (kind, arm)]
        if not those:
            continue
        close = [run["angle"] <= CLOSE[0] and run["shift"] <= CLOSE[1] for run in those]
        columns = [[run[name] for run in those] for name in ("angle", "shift", "code", "loss", "seconds")]
        figures = [quantiles(values, 3) for values in columns]
        rows.append([arm, len(those), f"{100 * sum(close) / len(those):.0f} %", *figures, ratio(runs, kind, arm)])
    columns = ["arm", "samples", f"within {CLOSE[0]:g} degrees and {100 * CLOSE[1]:g} %", "degrees off"]
    columns += ["widths off", "radii of w off", "final loss", "CPU s", "loss to that of the same samples not moved"]
    return f"{about(kind)}\n\n{markdown_table(columns, rows)}"


def about(kind: str) -> str:
    """How the runs with a net were made."""
    contrast = "" if kind == PORTRAITS else f", at {CONTRAST:g} of the net's contrast (its own exceeds [-1,1]),"
    text = f"""Medians and 95th percentiles. Samples of psi 1 are drawn at random within {ANGLE:g} degrees and {SHIFT:g}
widths{contrast} and compared by saturated-l2 alone. Where the start is the mean of w, they are pictures as they are
saved, of 8 bits a colour (5e-6 of l2), and the whole recipe sg3 is run. In the other arms the code is known to
{KNOWN:g} of the radius of the cloud of w, as an encoder might know it, and the recipe is cut to a search for the
placement (125 places, {RUNS} runs of {RUN} steps), then {STEPS[kind]} steps of angle, shift
and w. Angle and shift are measured between the planes of features that are drawn, since
row 0 of ws turns and shifts it too; radii of w are those of its cloud."""
    if kind == PORTRAITS:
        return text
    return f"""{text} From the mean of w a net of random weights fits the picture closely at another place with another
code: what it draws is a texture, which has no place of its own. The last arm says that this is not for want of the
placement: there it is given and held, and the descent ends with another code all the same."""


def ratio(runs: list[Mapping[str, Any]], kind: str, arm: str) -> str:
    """The quotient of medians over the samples that both arms have."""
    other = "not moved" + (", from the mean of w" if "mean" in arm else "")
    found = [{r["sample"]: r["loss"] for r in runs if (r["net"], r["arm"]) == (kind, name)} for name in (arm, other)]
    both = sorted(found[0].keys() & found[1].keys())
    losses = [torch.tensor([losses_of[i] for i in both]) for losses_of in found]
    return f"{(losses[0].median() / losses[1].median()).item():.2f}" if both and arm != other else ""


if __name__ == "__main__":
    main()
