"""What becomes of measurements: figures, pictures in the results' folders, and how far solutions lie apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.errors import MissingWeightsError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_text
from latentopt.files.text import as_unicode, cell
from latentopt.inverting.events import Finished
from latentopt.inverting.items import Item, Unread, read
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.contact_sheet import contact_sheet, difference
from latentopt.pictures.images import save_png
from latentopt.restoring.measuring import Measuring, is_picture
from latentopt.results.distortion import metrics
from latentopt.results.inversion import Inversion

AMPLIFY = 4.0


@dataclass(frozen=True)
class Restoration:
    """One restored picture.

    image [C,H,W]: the picture; measured, remeasured [...]: the measurement, and that of the picture; truth [C,H,W]:
    what the measurement was simulated of, if it was; solutions: the results, the first of which `image` is of; spread
    [C,H,W]: the standard deviation of the solutions' pictures, None for one solution.
    """

    name: str
    image: Tensor
    measured: Tensor
    remeasured: Tensor
    truth: Tensor | None
    solutions: tuple[Inversion, ...]
    spread: Tensor | None = None


def solution_name(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-solution-{number}"


def further_names(name: str, solutions: int) -> list[str]:
    """Of the solutions after the first."""
    return [solution_name(name, k) for k in range(2, solutions + 1)]


class Restorations:
    """What becomes of the images: figures, pictures in the folder, and the spread of an image's solutions."""

    def __init__(
        self, measuring: Measuring, folder: Path | None, items: Sequence[Item | Unread], solutions: int, keep: bool
    ) -> None:
        self.measuring, self.folder, self.solutions, self.keep = measuring, folder, solutions, keep
        self.items = {item.name: item for item in items}  # of the first solutions
        self.seen: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}  # measured, remeasured, truth
        self.found: dict[str, Inversion] = {}
        self.pictures: dict[str, Tensor] = {}

    @torch.no_grad()
    def figures(self, item: Item, image: Tensor) -> dict[str, float]:
        """Likeness of the measurements (mse, psnr, ssim) and, where it is known, to the true picture (true_...)."""
        target = item.target
        assert target.measured is not None
        mask = None if target.mask is None else target.mask[None].to(image)
        operator = self.measuring.operator(mask)
        again = operator(image[None])
        measured = operator.counted(target.measured[None].to(again))
        truth = None if target.truth is None else target.truth[None].to(image)
        self.seen[item.name] = (measured[0].cpu(), again[0].cpu(), target.truth)
        if is_picture(measured.shape[1:]):
            values = {name: value.item() for name, value in metrics(again, measured).items()}
        else:
            values = {"mse": (again - measured).square().mean().item() / 4}
        if truth is not None:
            values |= {f"true_{name}": value.item() for name, value in metrics(image[None], truth).items()}
            if self.features is not None:
                values["true_perceptual"] = self.features.distance(image[None], truth).item()
        return values

    @cached_property
    def features(self) -> PerceptualFeatures | None:
        """By which pictures are compared with true ones; None where their weights cannot be had."""
        try:
            return PerceptualFeatures(self.measuring.generator)
        except MissingWeightsError:
            return None

    def add(self, event: Finished) -> None:
        """Take note of a result, and write its pictures beside it."""
        inversion = event.inversion
        if self.keep:
            self.found[inversion.name] = inversion
        if self.solutions > 1:
            self.pictures[inversion.name] = inversion.image.cpu()
        if inversion.name not in self.seen:
            return  # of an earlier run, whose pictures are there
        if self.folder is not None:
            self._write(self.folder / inversion.name, inversion.image, *self.seen[inversion.name])
        if not self.keep:
            del self.seen[inversion.name]

    def _write(self, folder: Path, image: Tensor, measured: Tensor, again: Tensor, truth: Tensor | None) -> None:
        if truth is not None:
            save_png(folder / "truth.png", truth)
        if is_picture(measured.shape):
            save_png(folder / "measurement.png", measured)
            save_png(folder / "remeasured.png", again)
            save_png(folder / "residual.png", difference(measured, again, AMPLIFY))
            pictures = {"measurement": measured, "of the result": again}
            pictures |= {f"difference x{AMPLIFY:g}": difference(measured, again, AMPLIFY), "result": image}
            pictures |= {} if truth is None else {"truth": truth}
            cells = [_enlarged(picture, image) for picture in pictures.values()]
            contact_sheet([cells], folder / "restoration.png", columns=list(pictures))

    def spread(self, name: str) -> Tensor | None:
        """Standard deviation [C,H,W] of an image's solutions, in units of [-1,1]; None for fewer than two."""
        names = [solution_name(name, k) for k in range(1, self.solutions + 1)]
        pictures = [self.pictures[n].clamp(-1, 1) for n in names if n in self.pictures]
        return torch.stack(pictures).std(dim=0) if len(pictures) > 1 else None

    def write_spread(self) -> None:
        """spread.png beside each image's first solution, and spread.csv for all."""
        if self.folder is None or self.solutions == 1:
            return
        rows: list[list[object]] = [["name", "solutions", "spread"]]
        for name in self.items:
            spread = self.spread(name)
            if spread is not None:
                save_png(self.folder / name / "spread.png", (AMPLIFY * 2 * spread - 1).clamp(max=1))
                levels = 127.5 * spread.square().mean().sqrt().item()
                rows.append([cell(as_unicode(name)), self.solutions, f"{levels:.3f}"])
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(rows)
        with clear_write_errors(self.folder / "spread.csv"):
            write_text(self.folder / "spread.csv", stream.getvalue())

    def made(self, name: str) -> Restoration:
        found = [self.found[n] for k in range(1, self.solutions + 1) if (n := solution_name(name, k)) in self.found]
        if name not in self.seen:  # the result is an earlier run's
            self.figures(read(self.items[name]), found[0].image.to(self.measuring.generator.device))
        measured, again, truth = self.seen[name]
        return Restoration(name, found[0].image, measured, again, truth, tuple(found), self.spread(name))


def _enlarged(picture: Tensor, like: Tensor) -> Tensor:
    """A picture [C,h,w] at the size of another, in whole pixels."""
    return interpolate(picture[None], like.shape[-2:], mode="nearest")[0]
