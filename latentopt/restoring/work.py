"""`latentopt.restore`: pictures of which only a measurement is known, by any recipe. B images, C channels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from latentopt.errors import InversionFailed, UsageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_text
from latentopt.files.text import as_unicode, cell
from latentopt.inverting.events import Event, Finished
from latentopt.inverting.inverter import Inverter
from latentopt.inverting.items import Item, Unread, read
from latentopt.inverting.preparing import prepare
from latentopt.inverting.work import EXACT, OnEvent, follow
from latentopt.operators.call import Function
from latentopt.perceptual.features import PerceptualFeatures
from latentopt.pictures.contact_sheet import contact_sheet, difference
from latentopt.pictures.images import Fit, save_png
from latentopt.protocols import Generator, Operator
from latentopt.recipe.recipe import Recipe
from latentopt.registry import TERMS
from latentopt.restoring.measuring import Exact, Measuring, is_picture, items_of
from latentopt.results.distortion import metrics
from latentopt.results.inversion import Inversion
from latentopt.watching.interruption import Interrupted, never

TITLE = "latentopt restorations"
START = {"name": "sample", "psi": 0.7}  # of further solutions
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


def restore(
    generator: Generator,
    images: Tensor | str | Path | Sequence[str | Path],
    operator: str | Mapping | Sequence | Operator | Callable[[Tensor], Tensor] | None = None,
    recipe: str | Path | Recipe = "robust",
    *,
    simulate: bool = False,
    solutions: int = 1,
    seed: int = 0,
    names: Sequence[str] | None = None,
    fit: Fit | Exact = "exact",
    out: str | Path | None = None,
    exact: bool = False,
    overwrite: bool = False,
    options: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
    interrupted: Interrupted = never,
    keep: bool = True,
) -> list[Restoration]:
    """Find pictures of `generator` whose measurements are `images`.

    images: measurements [B,...], those that `operator` makes of the generator's pictures in [-1,1]; or files, folders
    and globs of pictures of that size. operator: text such as "down:8,jpeg:12", a table or a list of them as in recipes
    (docs/restore.md), or any function of images [B,C,H,W] that is differentiable; None is the recipe's own. recipe: any
    that inverts. simulate: `images` are good pictures, which are measured first; the results are compared with them.
    solutions: how many to look for from different starts; the first is what is found with one. fit: "exact" takes files
    of the very size of a measurement only, the others make them fit. The rest is as for `latentopt.invert`.

    Returns one Restoration per image, in order. Raises UsageError for what cannot be meant, InversionFailed as
    `latentopt.invert` does.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(str(recipe))
    given = _as_operator(operator)
    if given is None and operator is not None:
        recipe = recipe.measuring(operator)
    if recipe.needs_start:
        raise UsageError(f"recipe {recipe.name!r} goes on from an earlier result; a restoration begins with none")
    if solutions < 1:
        raise UsageError(f"solutions must be at least 1, not {solutions}")
    measuring = Measuring(generator, recipe.stages[0].operators, given)
    check_terms(recipe, measuring)
    folder = None if out is None else Path(out)
    items = items_of(measuring, images, names, seed, simulate, fit, folder)
    decides = dict(options or {}) | {"simulate": simulate}
    decides |= {} if given is None else {"operator": [measuring.name, measuring.digest()]}
    recipe, decides = (recipe.alone(), decides | EXACT) if exact else (recipe, decides)
    prepare(recipe, generator, given)
    results = _Results(measuring, folder, items, solutions, keep)
    further = replace(recipe, stages=(replace(recipe.stages[0], init=START), *recipe.stages[1:]))
    inverters = [
        Inverter(generator, r, seed, folder, tuple(decides.items()), operator=given, figures=results.figures)
        for r in ([recipe] if solutions == 1 else [recipe, further])
    ]
    groups = [items, [_renamed(item, k) for item in items for k in range(2, solutions + 1)]]

    def events(_: Sequence[Item | Unread], interrupted: Interrupted) -> Iterable[Event]:
        return chain(*(inverter.invert(group, interrupted) for inverter, group in zip(inverters, groups, strict=False)))

    def tell(event: Event) -> None:
        if isinstance(event, Finished):
            results.add(event)
        if on_event is not None:
            on_event(event)

    try:
        follow(events, [*items, *groups[1]], folder, overwrite, tell, interrupted, False, TITLE, results.write_spread)
    except InversionFailed as error:
        found = {name: results.made(name) for name in results.found if name in results.items}
        raise InversionFailed(str(error), found) from error
    return [results.made(item.name) for item in items] if keep else []


def _as_operator(operator: object) -> Operator | None:
    """What was given as it is, rather than written; None for that."""
    if operator is None or isinstance(operator, str | Mapping | Sequence):
        return None
    if isinstance(operator, Operator):
        return operator
    if callable(operator):
        return Function(operator)
    raise UsageError(f"an operator is text, a table, or a function of images, not {type(operator).__name__}")


def check_terms(recipe: Recipe, measuring: Measuring) -> None:
    """Raise UsageError where a term compares pictures and the measurements are none."""
    shape = measuring.shape()
    if is_picture(shape):
        return
    seeing = [p["name"] for s in recipe.stages for p in s.terms if "net" in TERMS.options(p["name"])]
    if seeing:
        raise UsageError(
            f"recipe {recipe.name!r} compares pictures by {seeing[0]}, and what {measuring.name} measures is none "
            f"({list(shape)}): take other terms, --terms l2 (in Python: Recipe.in_every_stage(terms=[...]))"
        )


def solution_name(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-solution-{number}"


def _renamed(item: Item | Unread, number: int) -> Item | Unread:
    return replace(item, name=solution_name(item.name, number))


class _Results:
    """What becomes of the images: figures, pictures in the folder, and the spread of an image's solutions."""

    def __init__(
        self, measuring: Measuring, folder: Path | None, items: Sequence[Item | Unread], solutions: int, keep: bool
    ) -> None:
        self.measuring, self.folder, self.solutions, self.keep = measuring, folder, solutions, keep
        self.items = {item.name: item for item in items}  # of the first solutions
        self.features: PerceptualFeatures | None = None
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
            self.features = self.features or PerceptualFeatures(self.measuring.generator)
            values |= {f"true_{name}": value.item() for name, value in metrics(image[None], truth).items()}
            values["true_perceptual"] = self.features.distance(image[None], truth).item()
        return values

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
