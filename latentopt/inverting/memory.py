"""What a run needs of the memory, and how it is made to fit: before the work, since a full memory ends the process."""

from __future__ import annotations

import math

from latentopt.devices import free_memory
from latentopt.generators.tunable import choose_weights
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.watching.phases import tell

SHARE = 0.8  # of the free memory that a run may count on
NETWORKS = 500e6  # bytes: the networks of the terms, and what they keep of one image
COPIES = 6  # of what changes in the weights: itself, its gradient, two moments, the best, the safe one


def fit_memory(recipe: Recipe, generator: Generator, images: int) -> int:
    """How many of a batch's `images` there is memory for at once.

    Where it does not suffice, large layers are computed again instead of kept (`Generator.low_memory`), with a line.
    Unknown memory is taken to suffice; one image is always tried.
    """
    free = free_memory(generator.device)
    if free is None:
        return images
    own = weight_bytes(recipe, generator)

    def fitting() -> int:
        return int((SHARE * free - NETWORKS) // (generator.gradient_bytes + own + NETWORKS / 4))

    if fitting() < images and not generator.low_memory:
        full = generator.gradient_bytes
        generator.set_low_memory(True)
        if generator.gradient_bytes == full:  # small layers only: nothing is gained
            generator.set_low_memory(False)
        else:
            tell(f"memory is short ({free / 1e9:.1f} GB are free): large layers are computed twice, as by --low-memory")
    at_once = max(1, min(images, fitting()))
    if fitting() < 1:
        need = (generator.gradient_bytes + own + NETWORKS) / 1e9
        tell(f"one image needs about {need:.1f} GB and {free / 1e9:.1f} GB are free: --dtype bfloat16 needs less")
    elif at_once < images:
        tell(f"{at_once} of {images} images are drawn at once: there is no memory for more")
    return at_once


def weight_bytes(recipe: Recipe, generator: Generator) -> float:
    """Bytes that a change of the weights takes for each image."""
    chosen = [
        choose_weights(generator, str(part.get("layers", "all")))
        for stage in recipe.stages
        for part in stage.spaces("deltas")
    ]
    values = [sum(math.prod(generator.tunable[name]) for name in names) for names in chosen]
    return 0.0 if recipe.shares else 4.0 * COPIES * max(values, default=0)
