"""What an earlier run kept, by the keys of its results: nothing is done twice, nothing stale is taken for done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from latentopt.errors import CheckpointError
from latentopt.inverting.items import Item
from latentopt.protocols import Generator
from latentopt.recipe.files import recipe_files
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion, is_complete
from latentopt.results.manifest import run_key


@dataclass(frozen=True)
class Keeping:
    """Results of a recipe with a generator in a folder `out` (none: nothing is kept).

    decides: whatever else decides every result, such as how pictures were fitted; it is part of the key.
    """

    generator: Generator
    recipe: Recipe
    seed: int
    out: Path | None
    decides: Mapping[str, object]

    @cached_property
    def files(self) -> dict[str, str]:
        """The files that the recipe reads beside the generator, with their hashes."""
        return recipe_files(self.recipe, self.generator)

    def key(self, item: Item) -> str:
        """Changes with whatever decides the result: a result with another key is stale and made again."""
        options = dict(self.decides) | {"files": sorted(self.files.values())}
        if item.start is not None:
            options["start"] = item.start.digest
        if item.target.alignment is not None:
            options["alignment"] = item.target.alignment["quad"]
        return run_key(item.target.sha256, self.recipe.digest, self.generator.fingerprint, self.seed, options)

    def is_done(self, item: Item) -> bool:
        """Whether the finished result of exactly this is there."""
        return self.out is not None and is_complete(self.out / item.name, self.key(item))

    def done(self, item: Item) -> Inversion | None:
        """What an earlier run made of exactly this, or None; a result with a damaged file counts as none."""
        if self.out is None or not self.is_done(item):
            return None
        try:
            return Inversion.load(self.out / item.name)
        except CheckpointError:
            return None
