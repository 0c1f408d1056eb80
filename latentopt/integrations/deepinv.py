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
from latentopt.restoring.work import restore

try:
    from deepinv.models import Reconstructor
except ImportError as error:
    raise LatentoptError("DeepInverse is not installed: pip install 'latentopt[deepinv]'") from error


class StyleGANReconstructor(Reconstructor):
    """`reconstructor(y, physics)` -> the picture [B,C,H,W] in [0,1] that `generator` draws and whose measurement by
    `physics` is nearest to y, as `recipe` looks for it (`latentopt.restore`).

    Measurements that are no pictures are compared by numbers: the recipe's terms are then replaced by `l2`. Raises
    UsageError for measurements of another shape than those that `physics` makes, complex ones, and several at once.
    """

    def __init__(self, generator: Generator, recipe: str | Path | Recipe = "robust", *, seed: int = 0) -> None:
        super().__init__()
        self.generator, self.seed = generator, seed
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))

    def forward(self, y: Tensor, physics: Any, **options: object) -> Tensor:
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise UsageError("a measurement is one real tensor [B,...]; stack the parts of a complex one, or several")

        def measure(image: Tensor) -> Tensor:
            return physics.A((image + 1) / 2) * 2 - 1

        plain = [{"name": "l2", "weight": 1.0}]
        recipe = self.recipe if is_picture(y.shape[1:]) else self.recipe.in_every_stage(terms=plain)
        with torch.enable_grad():
            found = restore(self.generator, y * 2 - 1, measure, recipe, seed=self.seed)
        return torch.stack([(one.image + 1) / 2 for one in found]).to(y)
