"""What the studio works on: a generator and a folder of results, exactly those of the command line."""

from __future__ import annotations

import io
from collections import OrderedDict
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.api import Recipe, draw, find_directions, find_sources, open_sources, read_latent
from latentopt.api import apply_edits as edited
from latentopt.api import recipe_names as shipped_recipes
from latentopt.editing.mixing import mix_drawn
from latentopt.errors import CheckpointError, LatentoptError, UsageError
from latentopt.pictures.images import to_pil
from latentopt.refiners import KINDS as REFINER_KINDS
from latentopt.refiners.files import refiner_path
from latentopt.results.inversion import read_run
from latentopt.results.redrawing import Redraw
from latentopt.studio.lines import making
from latentopt.studio.places import ALIGNED, PICTURES, inside, sample_keys

if TYPE_CHECKING:
    from torch import Tensor

    from latentopt.editing.latents import Latent
    from latentopt.protocols import Generator
    from latentopt.studio.messages import Look
    from latentopt.types import GeneratorInputs

MOST_SHOWN = 200  # results and pictures in the page's lists, the newest first
MOST_KEPT = 16  # latents in memory
LOSSLESS = 256  # pixels a side up to which a drawing is sent as PNG, beyond as JPEG
FIGURES = ("psnr", "ssim", "perceptual", "true_psnr", "frechet")  # of a result, that a page shows


class Session:
    """A generator, its directions, and the folder `root` that results are found in and go to."""

    def __init__(self, generator: Generator, root: Path) -> None:
        self.generator, self.root = generator, root
        self._latents: OrderedDict[tuple[str, int], Latent] = OrderedDict()

    @cached_property
    def directions(self) -> dict[str, Any]:
        """All that are at hand, by name."""
        return dict(find_directions(self.generator))

    # ---- what there is

    def about(self) -> dict[str, Any]:
        """What does not change while the studio runs, plain data for the page."""
        generator = self.generator
        height, width = generator.resolution
        directions = [
            {"name": name, "rows": list(d.layers or range(generator.num_ws)), "unit": str(d.about.get("unit", ""))}
            for name, d in sorted(self.directions.items())
        ]
        return {
            "generator": generator.name,
            "family": generator.family,
            "width": width,
            "height": height,
            "rows": generator.num_ws,
            "folder": str(self.root),
            "directions": directions,
            "recipes": self.recipes,
            "refiners": self.refiners,
            "samples": sample_keys(),
        }

    @cached_property
    def recipes(self) -> list[dict[str, Any]]:
        """The shipped recipes: what each is about, and which parts of the work it does."""
        found = []
        for name in shipped_recipes():
            recipe = Recipe.load(name)
            inverting, tuning = recipe.split()
            refines = recipe.refines and not self.refiners
            if refines or any(stage.spaces("transform") for stage in recipe.stages if not self._moves):
                continue
            optimize = recipe.stages[0].optimize
            found.append(
                {
                    "name": name,
                    "about": recipe.about,
                    "source": recipe.source,
                    "steps": sum(stage.steps for stage in recipe.stages),
                    "inverts": inverting is not None and not recipe.needs_start,
                    "tunes": tuning is not None,
                    "clip": optimize[0].get("clip") if optimize else None,
                }
            )
        return found

    @property
    def _moves(self) -> bool:
        return self.generator.takes_transform

    @cached_property
    def refiners(self) -> list[str]:
        """The kinds of refiners that are at hand."""

        def there(kind: str) -> bool:
            try:
                return refiner_path(kind, self.generator).is_file()
            except LatentoptError:
                return False

        return [kind for kind in REFINER_KINDS if there(kind)]

    def pictures(self) -> list[str]:
        """The pictures that pages have sent, the newest first."""
        found = [*_newest(self.root / PICTURES, "*"), *_newest(self.root / ALIGNED, "*.png")]
        return [path.relative_to(self.root).as_posix() for path in found]

    def results(self) -> list[dict[str, Any]]:
        """The finished results of this generator below the folder, the newest first."""
        found = (self._result(path.parent) for path in _newest(self.root, "**/run.json"))
        return [result for result in found if result is not None]

    def _result(self, folder: Path) -> dict[str, Any] | None:
        try:
            record = read_run(folder)
        except CheckpointError:
            return None
        if record["generator"]["fingerprint"] != self.generator.fingerprint:
            return None
        base = folder.relative_to(self.root).as_posix()
        return {
            "base": base,
            "name": folder.name if base == "." else base,
            "recipe": record["recipe"]["name"],
            "tuned": bool(record.get("tuned")),
            "figures": {name: record["metrics"][name] for name in FIGURES if name in record["metrics"]},
            "seconds": record["seconds"].get("total"),
            "notes": list(record["source"]["notes"]),
            "commands": [making(folder, record)],
        }

    # ---- latents and what is done to them

    def place(self, base: str) -> Path:
        """The result's folder or file of latents that a page names. Raises UsageError."""
        return self.root if base == "." else inside(self.root, base)

    def latent(self, base: str) -> Latent:
        """The latents that a page names. Raises UsageError, CheckpointError."""
        place = self.place(base)
        file = place / "run.json" if place.is_dir() else place
        try:
            key = (base, file.stat().st_mtime_ns)
        except OSError:
            raise UsageError(f"{base[:80]!r}: no result there") from None
        if key not in self._latents:
            sources = open_sources(find_sources(place), self.generator)
            if len(sources) != 1:
                raise UsageError(f"{base[:80]!r} holds {len(sources)} images; choose one of them")
            self._latents[key] = read_latent(sources[0], self.generator)
            if len(self._latents) > MOST_KEPT:
                self._latents.popitem(last=False)
        self._latents.move_to_end(key)
        return self._latents[key]

    def inputs(self, look: Look) -> tuple[GeneratorInputs, str]:
        """What is drawn for a look, and the noise mode. Raises UsageError for names and rows that are not there."""
        latent = self.latent(look.base)
        changed = edited(latent.inputs, [move.edit for move in look.edits], self.directions)
        if look.mix is None:
            return latent.redraw(changed), latent.noise_mode
        coarse = Redraw(changed) if latent.refined is None else latent.redraw
        other = self.latent(look.mix.other)
        return mix_drawn(coarse, other.redraw, look.mix.row, self.generator), latent.noise_mode

    def drawn(self, latent: Latent, inputs: GeneratorInputs) -> Tensor:
        """The picture [C,H,W] of inputs that were made of some latents."""
        return draw(self.generator, latent.redraw(inputs), latent.noise_mode)

    def draw(self, look: Look) -> Tensor:
        """The picture of a look, [C,H,W] in [-1,1]."""
        return draw(self.generator, *self.inputs(look))


def _newest(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern, without hidden ones, the newest first."""
    found = []
    for path in folder.glob(pattern):
        with suppress(OSError):  # a run may be replacing it just now
            if path.is_file() and not _hidden(path.relative_to(folder)):
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)[:MOST_SHOWN]]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def encoded(picture: Tensor) -> bytes:
    """A drawn picture [C,H,W] as it is sent: PNG and, where that would take long, JPEG."""
    image, stream = to_pil(picture), io.BytesIO()
    if max(image.size) <= LOSSLESS or image.mode == "RGBA":
        image.save(stream, format="PNG", compress_level=1)
    else:
        image.save(stream, format="JPEG", quality=92)
    return stream.getvalue()
