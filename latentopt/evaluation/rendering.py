"""Pictures of one result with other latents: all else that it is drawn from stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentopt.evaluation.image_metrics import on_levels
from latentopt.protocols import Generator
from latentopt.statistics.sampling import drawn_at_once
from latentopt.types import GROUPS, GeneratorInputs
from latentopt.watching.phases import counted

BATCH = 25

Drawn = Callable[[GeneratorInputs], GeneratorInputs]
"""From a result's edited inputs to what is drawn (`latentopt.results.redrawing`)."""


def as_they_are(inputs: GeneratorInputs) -> GeneratorInputs:
    """Drawn without a refiner."""
    return inputs


@torch.no_grad()
def draw(
    generator: Generator,
    inputs: GeneratorInputs,
    ws: Tensor,
    noise_mode: str = "const",
    batch: int = BATCH,
    redraw: Drawn = as_they_are,
) -> Tensor:
    """Pictures [V,3,H,W] on 8-bit levels of one image's `inputs` with each of the latents ws [V,L,C].

    redraw: what its edits are drawn through.
    """
    parts = ws.split(drawn_at_once(generator, batch))
    drawing = counted(parts, "drawing", "batches")
    return on_levels(
        torch.cat([generator.synthesis(redraw(inputs.with_latents(part)), noise_mode).float() for part in drawing])
    )


def draw_samples(generator: Generator, ws: Tensor, batch: int = BATCH) -> Tensor:
    """The generator's own pictures [V,3,H,W] of ws [V,L,C], on 8-bit levels."""
    return draw(generator, GeneratorInputs(ws[:1]), ws, batch=batch)


@torch.no_grad()
def draw_each(generator: Generator, images: Sequence[GeneratorInputs], noise_mode: str = "const") -> Tensor:
    """Pictures [V,3,H,W] on 8-bit levels of V inputs of one image each; those with weights of their own one by one.

    So are inputs of which some have noise maps or residuals that others lack.
    """
    entries = {tuple(frozenset(getattr(inputs, name) or ()) for name in GROUPS) for inputs in images}
    alone = len(entries) > 1 or any(inputs.deltas for inputs in images)
    step = 1 if alone else drawn_at_once(generator, BATCH)
    parts = [GeneratorInputs.cat(images[k : k + step]) for k in range(0, len(images), step)]
    drawing = counted(parts, "drawing", "batches")
    return on_levels(torch.cat([generator.synthesis(part, noise_mode).float() for part in drawing]))
