"""A drag of latents on disk: the picture with its latents, what was asked and reached, and a film."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.dragging.drag import DragStep, drag
from latentopt.editing.films import Film
from latentopt.editing.latents import Latent, file_name
from latentopt.editing.pictures import draw, film_frame
from latentopt.editing.work import keep_delta, save_edited
from latentopt.errors import LatentoptError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import to_json, write_text
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.marks import marked
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.watching.phases import phase

NAME = "dragged"


@dataclass(frozen=True)
class Dragged:
    """What became of a drag: its last step, the file of its picture, and whether somebody stopped it before its end."""

    last: DragStep
    picture: Path
    stopped: bool


def drag_latent(
    generator: Generator,
    latent: Latent,
    points: Sequence,
    folder: Path,
    mask: Tensor | None = None,
    recipe: str | Path | Recipe = "drag",
    *,
    name: str = NAME,
    film: Film | None = None,
    marks: bool = False,
    on_step: Callable[[DragStep], object] = lambda step: None,
    **changes: Any,
) -> Dragged:
    """Drag points of one image, and write to `folder`/IMAGE: NAME.png and NAME.safetensors as edits are written,
    NAME.json with what was asked and reached, and NAME.points.png with the points before and after. A result with a
    refiner is drawn through it, except while it is dragged.

    film: one frame a step; marks: with the points in it. The rest is as for `latentopt.drag`. KeyboardInterrupt ends
    the drag early: what was reached is written, and `stopped` says so. Raises what `latentopt.drag` raises, and
    LatentoptError where the loss is not finite.
    """
    own, label = folder / latent.name, file_name(name)
    steps = drag(generator, latent.inputs, points, mask, recipe, noise_mode=latent.noise_mode, **changes)
    kept: list[DragStep] = []
    stopped = False
    try:
        first = next(steps)
        kept.append(first)
        with phase(f"dragging {latent.name}", first.steps, "steps") as advance:
            on_step(first)
            for step in steps:
                kept[1 if film is None else len(kept) :] = [step]
                on_step(step)
                advance(1)
    except KeyboardInterrupt:
        if not kept:
            raise
        stopped = True
    last = kept[-1]
    if last.status.startswith("failed"):
        raise LatentoptError(f"{latent.name}: {last.status}; try a lower rate: --set stages.0.lr=0.005")
    keep_delta(latent, own)
    drawn = latent.redraw(last.inputs)
    picture = draw(generator, drawn, latent.noise_mode)
    save_edited(own / label, picture, drawn, latent, generator)
    before = draw(generator, latent.redraw(latent.inputs), latent.noise_mode)
    shown = None if mask is None else mask.reshape(mask.shape[-2:])
    cells = [marked(before, first.points, first.targets, shown), marked(picture, last.points, last.targets, shown)]
    contact_sheet([cells], own / f"{label}.points.png", columns=["before", "after"])
    with clear_write_errors(own / f"{label}.json"):
        write_text(own / f"{label}.json", to_json(_record(first, last, generator), indent=2) + "\n")
    if film is not None:
        pictures = ((step, draw(generator, latent.redraw(step.inputs), latent.noise_mode)) for step in kept)
        film.save((film_frame(marked(x, s.points, s.targets) if marks else x) for s, x in pictures), own)
    return Dragged(last, own / f"{label}.png", stopped)


def _record(first: DragStep, last: DragStep, generator: Generator) -> dict[str, object]:
    rows = torch.cat([first.points, first.targets, last.points, last.distances[:, None]], dim=1).tolist()
    return {
        "generator": {"name": generator.name, "fingerprint": generator.fingerprint},
        "steps": last.step,
        "status": last.status,
        "arrived": last.arrived,
        "points": [{"from": row[:2], "to": row[2:4], "reached": row[4:6], "left": row[6]} for row in rows],
    }
