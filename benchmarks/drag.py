"""Do dragged points arrive, how soon, and does what is masked stay? 50 portraits whose true moves the renderer knows.

A portrait is inverted (recipe `fast`), and the same portrait is drawn with another yaw, place, smile or length of the
face: so it is known where the landmarks of the face (eyes, corners of the mouth, chin) were, and where they are then.
They are dragged from the one to the other, once without a mask and once with one in which only what the true move
changes (and a margin) may move. Where they came is read twice: by the drag's own tracking, and by the judge, a network
that the drag knows nothing of: it reads the attributes of the dragged picture, and by them the renderer says where the
landmarks are. The judge's own error, read from the true moved portraits, stands beside it.

    python benchmarks/drag.py
    python benchmarks/drag.py --samples 8 --set stages.0.lr=0.01 --folder work/benchmarks/drag-slow

Goes on where it was in `--folder`, a JSON file a portrait. Writes `drag.md` and `drag.png` into the results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from tables import markdown_table, provenance, write_report
from torch import Tensor
from torch.nn.functional import max_pool2d

from latentopt.api import DragStep, Recipe, drag, draw, invert, load_attribute_judge, load_generator
from latentopt.data.portrait_head import MAX_YAW, Head
from latentopt.data.portraits import NAMES, TEST_SEEDS, render, sample_attributes
from latentopt.files.storage import to_json, write_text
from latentopt.judge.protocol import AttributeJudge, read
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import read_png, save_png
from latentopt.pictures.marks import marked
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

SIDE = 64
LANDMARKS = ("left eye", "right eye", "left corner", "right corner", "chin")
KINDS = {  # attribute that changes, by how much, and the landmarks that are dragged
    "yaw": ("yaw", 0.4, (0, 1)),
    "place": ("position_x", 1.0, (0, 1, 4)),
    "smile": ("smile", 1.0, (2, 3)),
    "length": ("face_height", 0.5, (0, 1, 4)),
}
MARGIN = 2  # pixels around what moves
MOVES = 4 / 255  # of [-1,1]: what differs by more has moved
PICTURES = 8


def landmarks(attributes: Tensor) -> Tensor:
    """Where the renderer draws LANDMARKS of portraits [B,A], in pixels: [B,5,2]; NaN where one is out of view."""
    head = Head(dict(zip(NAMES, attributes.float().unbind(1), strict=True)))
    half, corner = (0.125 + 0.035 * head.a["smile"]) * head.wide, (0.285 - 0.0325 * head.a["smile"]) * head.tall
    frontal = [(-head.eye_x, head.eye_y), (head.eye_x, head.eye_y), (-half, corner), (half, corner)]
    places = []
    for u, y in [*frontal, (torch.zeros_like(half), head.half_height * 0.999)]:
        level = y / head.half_height
        radius = head.half_width * (1 - 0.12 * level - 0.03 * level * level) * (1 - level * level).sqrt()
        angle = torch.asin((u / radius).clamp(-1, 1)) + MAX_YAW * head.a["yaw"]
        x, y = head.shown_at(radius * angle.sin() + 0.035 * head.sin, y)
        seen = (angle.cos() > 0.2).flatten()[:, None]
        places.append(torch.where(seen, torch.stack([x.flatten(), y.flatten()], dim=1), torch.nan))
    return torch.stack(places, dim=1) * SIDE / 2 + (SIDE - 1) / 2


def moved(attributes: Tensor, kind: str) -> Tensor:
    """The portrait [1,A] with that attribute changed, towards the farther end of its range."""
    name, amount, _ = KINDS[kind]
    after, i = attributes.clone(), NAMES.index(name)
    middle = 0.5 if name == "face_height" else 0.0
    after[:, i] += amount if attributes[0, i] < middle else -amount
    return after


def judged(judge: AttributeJudge, picture: Tensor, attributes: Tensor) -> Tensor:
    """The landmarks [5,2] of a picture [3,H,W], by what the judge reads in it."""
    found, values = attributes.clone(), read(judge, picture[None])[0]
    for i, name in enumerate(judge.attributes):
        found[0, NAMES.index(name)] = values[i]
    return landmarks(found)[0]


def what_moves(before: Tensor, after: Tensor) -> Tensor:
    """[1,1,H,W]: 1 where the two pictures [1,3,H,W] differ, and a margin around."""
    differs = ((before - after).abs().amax(dim=1, keepdim=True) > MOVES).float()
    return max_pool2d(differs, 2 * MARGIN + 1, stride=1, padding=MARGIN)


def dragged(
    generator: Generator, inputs: GeneratorInputs, points: Sequence, mask: Tensor | None, recipe: Recipe
) -> tuple[DragStep, dict[str, float]]:
    """The last step, and the seconds that it all took: of this process, and of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    *_, last = drag(generator, inputs, points, mask, recipe)
    return last, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def work_on(i: int, kind: str, generator: Generator, judge: AttributeJudge, recipe: Recipe, folder: Path) -> dict:
    """One portrait's record; its pictures are written beside."""
    attributes = sample_attributes([TEST_SEEDS[i]])
    target = moved(attributes, kind)
    portrait, true = render(attributes, SIDE), render(target, SIDE)
    inversion = invert(generator, portrait, "fast")[0]
    before, after = landmarks(attributes)[0], landmarks(target)[0]
    used = [k for k in KINDS[kind][2] if not (before[k] + after[k]).isnan().any()]
    points = torch.cat([before[used], after[used]], dim=1).clamp(0, SIDE - 1).tolist()
    mask = what_moves(portrait, true)
    start = draw(generator, inversion.inputs)
    record: dict = {"kind": kind, "seed": TEST_SEEDS[i], "landmarks": [LANDMARKS[k] for k in used], "points": points}
    record["judge_error"] = (judged(judge, true[0], target) - after)[used].norm(dim=1).tolist()
    record["undragged"] = (judged(judge, start, attributes) - after)[used].norm(dim=1).tolist()
    origins, goals = torch.tensor(points).split(2, dim=1)
    pictures = [marked(start, origins, goals, mask[0, 0])]
    for name, moving in (("free", None), ("masked", mask)):
        last, seconds = dragged(generator, inversion.inputs, points, moving, recipe)
        picture = draw(generator, last.inputs)
        stays = (1 - mask[0]).expand_as(picture).bool()
        record[name] = {
            "steps": last.step,
            "seconds": seconds,
            "arrived": last.arrived,
            "tracked": last.distances.tolist(),
            "judged": (judged(judge, picture, attributes) - after)[used].norm(dim=1).tolist(),
            "drift": (picture - start)[stays].abs().mean().item(),
        }
        pictures.append(picture)
    for k, picture in enumerate([portrait[0], *pictures, true[0]]):
        save_png(folder / f"{i:03d}-{k}.png", picture)
    return record


def shares(records: Sequence[dict], way: str, of: str, within: float) -> float:
    values = [value for record in records for value in record[way][of]]
    return sum(value <= within for value in values) / len(values)


def middle(values: Sequence[float]) -> float:
    return torch.tensor(values).median().item()


def row(name: str, records: Sequence[dict], way: str, radius: float) -> list[object]:
    """One row of the first table."""
    judge = [value for record in records for value in record[way]["judged"]]
    return [
        name,
        len(records),
        f"{shares(records, way, 'tracked', radius + 1e-4):.0%}",
        f"{shares(records, way, 'judged', 1.0):.0%}",
        f"{shares(records, way, 'judged', 1.5):.0%}",
        middle(judge),
        middle([record[way]["steps"] for record in records]),
        middle([record[way]["seconds"]["cpu"] for record in records]),
        max(record[way]["seconds"]["cpu"] for record in records),
        middle([record[way]["seconds"]["wall"] for record in records]),
    ]


def report(records: Sequence[dict], radius: float) -> str:
    columns = ["moves", "portraits", "arrived", "judged within 1", "within 1.5", "judged, median"]
    columns += ["steps", "CPU s", "CPU s, most", "s"]
    rows = []
    for way, words in (("free", "no mask"), ("masked", "mask")):
        rows.append(row(f"all, {words}", records, way, radius))
        for kind in KINDS:
            own = [record for record in records if record["kind"] == kind]
            rows += [row(f"{kind}, {words}", own, way, radius)] if own else []
    errors = [value for record in records for value in record["judge_error"]]
    far = [value for record in records for value in record["undragged"]]
    drifts = {way: [record[way]["drift"] for record in records] for way in ("free", "masked")}
    ratios = [m / max(f, 1e-9) for f, m in zip(drifts["free"], drifts["masked"], strict=True)]
    mean = {way: sum(values) / len(values) for way, values in drifts.items()}
    held = sum(ratio <= 0.5 for ratio in ratios) / len(ratios)
    return "\n".join(
        [
            f"Distances in pixels of {SIDE}. *Arrived*: points whose tracked place is within {radius:g} pixels of the "
            "target, where the drag stops. *Judged*: where a network that the drag does not know reads them.\n",
            markdown_table(columns, rows),
            "\nThe judge's own error, on the true moved portraits: "
            f"{sum(e <= 1 for e in errors) / len(errors):.0%} within 1 pixel, median {middle(errors):.2g}; "
            f"without a drag the points are {middle(far):.2g} (median) from their targets, "
            f"{sum(e <= 1 for e in far) / len(far):.0%} within 1.\n",
            markdown_table(
                ["what stays drifts by (mean of abs, [-1,1])", "no mask", "mask", "ratio", "at most half"],
                [["mean over portraits", mean["free"], mean["masked"], mean["masked"] / mean["free"], f"{held:.0%}"]],
            ),
            f"\nMedian of the portraits' ratios: {middle(ratios):.2g}.\n",
            "![Portrait, inversion with its points and what may move, dragged, dragged with the mask, the renderer's "
            "moved portrait](drag.png)\n",
        ]
    )


@click.command()
@click.option("--samples", default=50, show_default=True, type=click.IntRange(1))
@click.option("--set", "settings", multiple=True, help="Any entry of the recipe drag, as stages.0.lr=0.01.")
@click.option("--folder", default=Path("work/benchmarks/drag"), show_default=True, type=click.Path(path_type=Path))
@click.option("--results", default=Path("benchmarks/results"), show_default=True, type=click.Path(path_type=Path))
def main(samples: int, settings: tuple[str, ...], folder: Path, results: Path) -> None:
    """Drag, measure, and write the table."""
    generator, judge = load_generator("portraits"), load_attribute_judge("portraits")
    recipe = Recipe.load("drag").override(settings)
    radius = 0.5  # at this size, whatever the recipe's radius below four pixels of 512
    records = []
    for i in range(samples):
        path = folder / f"{i:03d}.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        if record.get("recipe") != recipe.digest:
            kind = list(KINDS)[i % len(KINDS)]
            record = work_on(i, kind, generator, judge, recipe, folder) | {"recipe": recipe.digest}
            write_text(path, to_json(record, indent=1))
        records.append(record)
        click.echo(f"{i}: {record['kind']} {record['free']['steps']} steps, {record['free']['judged']}", err=True)
    rows = [[read_png(folder / f"{i:03d}-{k}.png") for k in range(5)] for i in range(min(samples, PICTURES))]
    headings = ["portrait", "inversion", "dragged", "with the mask", "renderer"]
    labels = [record["kind"] for record in records[:PICTURES]]
    contact_sheet([_same_size(cells) for cells in rows], results / "drag.png", columns=headings, labels=labels)
    facts = {"generator": generator.fingerprint, "recipe": recipe.digest}
    about = provenance(generator.device, "of the portraits: TEST_SEEDS", **facts)
    write_report(results / "drag.md", "Dragging", report(records, radius), about)


def _same_size(cells: Sequence[Tensor]) -> list[Tensor]:
    """Pictures enlarged to the largest of them by whole factors."""
    side = max(cell.shape[-1] for cell in cells)
    factors = [side // cell.shape[-1] for cell in cells]
    return [
        cell.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        for cell, factor in zip(cells, factors, strict=True)
    ]


if __name__ == "__main__":
    main()
