"""Other generators for `fast.py`: one of the other family, and one of another size, both of random weights.

Their targets are samples of their own. The image distance is the bundled network's, which is named in every recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from fast_runs import FOLDER, Method, Runs
from stylegan3_nets import reference_net
from torch import Tensor

from latentopt.generators.stylegan2 import StyleGAN2Config
from latentopt.protocols import Generator
from latentopt.recipe.recipe import Recipe
from latentopt.statistics.metric_measure import measure_metric
from latentopt.types import GeneratorInputs

NET = "bundled"
WIDE = StyleGAN2Config(512, 512, (128, 128, 128, 64, 64, 32, 32))  # 4 to 256 pixels, a quarter of config F's channels


def generator_of(name: str) -> Generator:
    """`stylegan3-t 32`: the reference's; `stylegan2 256`."""
    torch.manual_seed(0)
    generator = reference_net("T") if name == "stylegan3-t 32" else WIDE.build()
    generator.name = name.replace(" ", "-")
    return generator.eval().requires_grad_(False)


@dataclass(frozen=True)
class OwnRuns(Runs):
    """Runs on a generator's own samples; `network` is one of `generator_of`."""

    @cached_property
    def generator(self) -> Generator:
        return generator_of(self.network)

    @cached_property
    def metric_file(self) -> Path:
        """Measured before the runs, and so not part of their time."""
        path = FOLDER / "metrics" / f"{self.generator.name}.safetensors"
        measure_metric(self.generator, path, net=NET)
        return path

    def targets(self, names: Sequence[str]) -> Tensor:
        rows = [torch.randn(self.generator.z_dim, generator=torch.Generator().manual_seed(int(name))) for name in names]
        with torch.no_grad():
            ws = self.generator.broadcast(self.generator.mapping(torch.stack(rows)))
            return self.generator.synthesis(GeneratorInputs(ws))

    def adapted(self, method: Method) -> Method:
        """With the image distance, and the metric for it, named."""
        start = None if method.start is None else self.adapted(method.start)
        return replace(method, recipe=named(method.recipe, str(self.metric_file)), start=start)


def named(recipe: Recipe, metric_file: str) -> Recipe:
    """The recipe with `NET` in every term that has a network, and the metric for it in every space that has one."""
    table = recipe.table()
    for stage in table["stages"]:
        for term in stage["terms"]:
            term |= {"net": NET} if "net" in term else {}
        for space in stage["optimize"]:
            space |= {"metric_net": NET, "metric_file": metric_file} if space.get("metric") else {}
    return Recipe.from_table(table)
