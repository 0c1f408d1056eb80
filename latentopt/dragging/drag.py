"""`latentopt.drag`: points of one picture are dragged, step by step, by the recipe `drag`. n points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.dragging.points import Drag, as_drags
from latentopt.errors import UsageError
from latentopt.inverting.batch import Batch
from latentopt.inverting.items import check_mask
from latentopt.operators.mask import Mask
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Key, Recipe
from latentopt.recipe.stage import Stage
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs

TERM = "drag"  # of a recipe that drags
NAME = "dragged"


@dataclass(frozen=True)
class DragStep:
    """One step of a drag, as it was measured: what is drawn of `inputs` has its points at `points`.

    points, targets [n,2]: x and y in pixels, on the CPU; parts: what the terms measured; status: `running`, or how the
    drag ended: `done` after the last step, `stopped: ...` where all points arrived, `failed: ...`.
    """

    step: int
    steps: int
    points: Tensor
    targets: Tensor
    inputs: GeneratorInputs
    parts: dict[str, float]
    status: str
    seconds: float

    @property
    def distances(self) -> Tensor:
        """How far each point is from its target, [n] pixels."""
        return (self.targets - self.points).norm(dim=1)

    @property
    def arrived(self) -> bool:
        """Whether the drag has ended with all points within the recipe's radius of their targets."""
        return self.status.startswith("stopped")


def drag(
    generator: Generator,
    inputs: GeneratorInputs | Inversion,
    points: Sequence,
    mask: Tensor | None = None,
    recipe: str | Path | Recipe = "drag",
    *,
    noise_mode: str | None = None,
    **changes: Any,
) -> Iterator[DragStep]:
    """Drag points of one picture to their targets; a step is yielded as soon as it is measured, the start first.

    inputs: what draws the picture, batch of 1, or a result; what its refiner added is left out, and drawn anew for
    `step.inputs` by `redraw_of`. points: (x, y, to_x, to_y) or ((x, y), (to_x, to_y)) each, in pixels; the middle of
    the first pixel is (0, 0). mask [H,W] (or with leading dimensions of 1) in [0,1]: 1 may move, 0 stays. noise_mode:
    "const" or "none", what the picture is drawn with; by default the result's. changes: keys of the recipe's stage
    (steps, lr, ...) or options of its term `drag` (radius, patch, ...).

    Give up the iterator to stop: every step has all that its picture is drawn from. Raises UsageError, at the call, for
    what cannot be meant; CheckpointError for a result of another generator.
    """
    if isinstance(inputs, Inversion):
        inputs.check_generator(generator)
        noise_mode = noise_mode or ("none" if inputs.manifest.get("noise_mode") == "none" else "const")
        inputs = inputs.base
    if len(inputs) != 1:
        raise UsageError(f"a drag moves points of one picture; these are the inputs of {len(inputs)}")
    drags = as_drags(points)
    made = dragging_recipe(recipe, drags, {**changes, "noise_mode": noise_mode or "const"})
    start = inputs.to(generator.device).detach()
    with torch.no_grad():
        picture = generator.synthesis(start, made.stages[0].noise_mode).float()
    batch = Batch(generator, made, picture, (NAME,), (0,), _checked_mask(mask, picture))
    batch.inputs = start
    batch.prepare()
    return _steps(batch, torch.tensor(drags)[:, 2:])


def dragging_recipe(recipe: str | Path | Recipe, drags: Sequence[Drag], changes: dict[str, Any]) -> Recipe:
    """The recipe for these points, with keys of its stage or options of its term changed. Raises UsageError where it
    does not drag.
    """
    made = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))
    stage = made.stages[0]
    if len(made.stages) != 1 or not made.needs_start or TERM not in [part["name"] for part in stage.terms]:
        raise UsageError(f"recipe {made.name!r} is none that drags: one stage with init = 'previous' and a term 'drag'")
    if stage.keep != "last":
        raise UsageError(f"recipe {made.name!r}: a drag ends where its points are: keep = 'last'")
    keys = {field.name for field in fields(Stage)}
    options = {key: value for key, value in changes.items() if key not in keys}
    options["points"] = [list(point) for point in drags]
    terms = [{**part, **options} if part["name"] == TERM else part for part in stage.terms]
    values: dict[Key, object] = {("stages", 0, key): value for key, value in changes.items() if key in keys}
    return made.changed({**values, ("stages", 0, "terms"): terms})


def read_mask(path: Path, generator: Generator) -> Tensor:
    """What may move in the generator's pictures, [1,1,H,W]: white (or, of a picture with transparency, what is opaque)
    may, black stays. Raises ImageError for a file that is no picture, UsageError for one of another shape.
    """
    mask = Mask(generator, file=str(path)).mask
    assert mask is not None  # it was read from the file
    return mask


def _checked_mask(mask: Tensor | None, picture: Tensor) -> Tensor | None:
    """[1,1,H,W], or None. Raises UsageError."""
    if mask is None:
        return None
    whole = mask.reshape(1, 1, *mask.shape[-2:]) if mask.numel() == mask.shape[-1] * mask.shape[-2] else mask
    check_mask(whole, [1, 1, *picture.shape[2:]])
    return whole.to(picture)


def _steps(batch: Batch, targets: Tensor) -> Iterator[DragStep]:
    steps = batch.recipe.stages[0].steps
    for _, step in batch.steps():
        yield DragStep(
            step=step.step,
            steps=steps,
            points=batch.remembered(f"{TERM}/points")[0].cpu().clone(),
            targets=targets,
            inputs=batch.best_so_far(),
            parts={name: values[0] for name, values in step.parts.items()},
            status=step.status[0],
            seconds=step.seconds,
        )
