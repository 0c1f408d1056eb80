"""One image's result, and the folder that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.latent_files import check_made_with
from latentopt.checkpoints.saved_inputs import check_inputs
from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import to_json, write_atomically, write_text
from latentopt.pictures.images import DELTA_FILE, read_png, save_png
from latentopt.protocols import Generator
from latentopt.results.records import Figures, parse_entry, read_entry
from latentopt.results.records import is_complete as is_complete
from latentopt.results.records import read_run as read_run
from latentopt.types import GeneratorInputs

REFINED = "refined"  # of a file of inputs: the folder, from there, of the result whose refiner drew them


@dataclass(frozen=True)
class Inversion:
    """One image inverted.

    name: where it lies in the output folder; target, image [3,H,W] in [-1,1]; inputs: what draws `image`, batch of 1;
    recipe_toml: the recipe with all options resolved; history: one record a step; manifest: see
    latentopt.results.manifest.
    """

    name: str
    target: Tensor
    image: Tensor
    inputs: GeneratorInputs
    recipe_toml: str
    history: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write RUN_FILES, each complete or not there, `run.json` last: where it stands, the result is complete.

        Raises LatentoptError, naming the file, where one cannot be written (a full disk, no permission).
        """
        folder = Path(folder)
        if self.inputs.ws.shape[0] != 1:
            raise ValueError(f"an inversion holds one image; its ws are {tuple(self.inputs.ws.shape)}")
        with clear_write_errors(folder / "run.json"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").unlink(missing_ok=True)  # an older result ends here
        save_png(folder / "target.png", self.target)
        save_png(folder / "proj.png", self.image)
        with clear_write_errors(folder / "projected_w.npz"):
            w = self.inputs.ws.detach().float().cpu().numpy()  # [1,L,C]
            write_atomically(folder / "projected_w.npz", lambda temporary: np.savez(temporary, w=w))
        with clear_write_errors(folder / "inputs.safetensors"):
            self.inputs.replace(deltas=None).save(folder / "inputs.safetensors", self._metadata())
        with clear_write_errors(folder / DELTA_FILE):
            (folder / DELTA_FILE).unlink(missing_ok=True)
            if self.inputs.deltas is not None:
                self.delta().save(folder / DELTA_FILE)
        tuned = self.inputs.deltas is not None
        _write(folder / "recipe.toml", self.recipe_toml)
        _write(folder / "history.jsonl", "".join(to_json(record) + "\n" for record in self.history))
        _write(folder / "run.json", to_json(dict(self.manifest) | {"name": self.name, "tuned": tuned}, indent=2) + "\n")

    @property
    def base(self) -> GeneratorInputs:
        """`inputs` without what a refiner added: what edits change, before they are drawn through the refiner again
        (`latentopt.results.redrawing`).
        """
        record = self.manifest.get("refiner")
        return self.inputs if record is None else self.inputs.without_residual(record["layer"])

    def delta(self) -> Delta:
        """What tuning added to the generator's weights, as factors if it is low-rank. Raises ValueError for nothing."""
        if self.inputs.deltas is None:
            raise ValueError(f"{self.name}: its generator was not tuned")
        generator = self.manifest["generator"]
        tensors = {name: delta[0] for name, delta in self.inputs.deltas.items()}
        about = {
            "image": self.name,
            "recipe": self.manifest["recipe"]["name"],
            "tuned": self.manifest.get("tuned_from"),
        }
        delta = Delta(tensors, generator["fingerprint"], generator["name"], about)
        rank = self.manifest.get("rank")
        return delta if rank is None else delta.compact(rank)

    def _metadata(self) -> dict[str, str]:
        generator = self.manifest.get("generator", {})
        found = {key: str(generator.get(key, "")) for key in ("fingerprint", "name")}
        return found | ({REFINED: "."} if "refiner" in self.manifest else {})

    @staticmethod
    def load(folder: Path) -> Inversion:
        """Read what `save` wrote; the images come back as 8-bit levels. Raises CheckpointError naming the file."""
        folder = Path(folder)
        run = read_run(folder)
        inputs = GeneratorInputs.load(folder / "inputs.safetensors")
        if len(inputs) != 1:
            raise CheckpointError(f"{folder / 'inputs.safetensors'}: holds {len(inputs)} images, not one")
        if run.get("tuned"):
            inputs = inputs.replace(deltas=Delta.load(folder / DELTA_FILE).deltas())
        try:
            target, image = read_png(folder / "target.png"), read_png(folder / "proj.png")
        except ImageError as error:
            raise CheckpointError(f"{error}; the result is incomplete: invert the image again") from error
        if target.shape != image.shape:
            raise CheckpointError(f"{folder}: target.png and proj.png differ in size; invert the image again")
        recipe = read_entry(folder / "recipe.toml")
        lines = read_entry(folder / "history.jsonl").splitlines()
        history = [parse_entry(line, Figures, folder / "history.jsonl") for line in lines]
        return Inversion(run.get("name", folder.name), target, image, inputs, recipe, history, run)

    def check_generator(self, generator: Generator) -> None:
        """Raise CheckpointError where this was made with another generator than `generator`, or does not fit it."""
        check_generator(self.name, self.manifest, generator)
        expected = (generator.img_channels, *generator.resolution)
        if tuple(self.image.shape) != expected:
            raise CheckpointError(
                f"{self.name}: its pictures are {list(self.image.shape)}; {generator.name!r} draws {list(expected)}"
            )
        check_inputs(self.inputs, generator, self.name)


def check_generator(where: str, record: Mapping[str, Any], generator: Generator) -> None:
    """Raise CheckpointError, naming `where`, unless the result of this run.json was made with `generator`."""
    made_with = {"fingerprint": "unknown", "name": "unknown", **record.get("generator", {})}
    check_made_with(where, made_with, generator, ", or invert it again")


def check_picture_known(where: str, record: Mapping[str, Any]) -> None:
    """Raise UsageError, naming `where`, for a restoration: only what was measured of its picture is known."""
    if "simulate" in record.get("options", {}):  # which `latentopt.restore` always says
        raise UsageError(
            f"{where}: this was restored, and its true picture is not known: what was measured of it is no picture to "
            "tune a generator to, or to compare results with. Take the results of latentopt invert"
        )


def _write(path: Path, text: str) -> None:
    with clear_write_errors(path):
        write_text(path, text)
