"""DeepInverse: a reconstructor whose prior is a StyleGAN (extra `deepinv`).

DeepInverse's images are [B,C,H,W] in [0,1], as its physics take them; the generator's are in [-1,1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentopt.errors import LatentoptError, UsageError
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.restoring.measuring import is_picture
from latentopt.restoring.restoration import Restoration
from latentopt.restoring.work import restore

try:
    from deepinv.models import Reconstructor
except ImportError as error:
    raise LatentoptError("DeepInverse is not installed: pip install 'latentopt[deepinv]'") from error


class StyleGANReconstructor(Reconstructor):
    """`reconstructor(y, physics)` -> the pictures [B,C,H,W] in [0,1] that `generator` draws and whose measurement by
    `physics` is nearest to y, as `recipe` looks for it (`latentopt.restore`).

    Of several `solutions`, looked for from as many starts, the one that is nearest to the measurement is kept.
    Measurements that are no pictures are compared by numbers: `l2` replaces the terms that compare pictures. Raises
    UsageError for measurements of another shape than those that `physics` makes, complex ones, and several at once, and
    for physics that holds something else for every image, such as a mask each: call it once an image.
    """

    def __init__(
        self,
        generator: Generator,
        recipe: str | Path | Recipe = "pnorm-map",
        *,
        solutions: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.generator, self.solutions, self.seed = generator, solutions, seed
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))

    def forward(self, y: Tensor, physics: Any, **options: object) -> Tensor:
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise UsageError("a measurement is one real tensor [B,...]; stack the parts of a complex one, or several")

        def measure(image: Tensor) -> Tensor:
            return physics.A((image + 1) / 2) * 2 - 1

        measure.__qualname__ = type(physics).__name__
        _check_physics(physics, self.generator)
        recipe = self.recipe if is_picture(y.shape[1:]) else self.recipe.comparing_numbers()
        with torch.enable_grad():
            found = restore(self.generator, y * 2 - 1, measure, recipe, solutions=self.solutions, seed=self.seed)
        with torch.no_grad():
            return torch.cat([_nearest(one, physics, part) for one, part in zip(found, y.split(1), strict=True)])


@torch.no_grad()
def _check_physics(physics: Any, generator: Generator) -> None:
    """Raise UsageError for physics that does not measure one image by itself."""
    shape = (1, generator.img_channels, *generator.resolution)
    made = physics.A(torch.full(shape, 0.5, device=generator.device))
    if isinstance(made, Tensor) and made.ndim and len(made) != 1:
        raise UsageError(
            f"this {type(physics).__name__} measures {len(made)} images, each in its own way (a mask each, perhaps): "
            "call the reconstructor once an image, with the physics of that image"
        )


def _nearest(found: Restoration, physics: Any, y: Tensor) -> Tensor:
    """Of an image's solutions the one whose measurement is nearest to y [1,...], as [1,C,H,W] in [0,1]."""
    images = [((solution.image[None].to(y) + 1) / 2).clamp(0, 1) for solution in found.solutions]
    return min(images, key=lambda image: float((physics.A(image) - y).square().mean()))
