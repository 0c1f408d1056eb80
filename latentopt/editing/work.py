"""Edits, mixtures and interpolations of results on disk: pictures, latents, sheets and films in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from latentopt.editing.films import Film, between, frames_of
from latentopt.editing.latents import Latent, file_name, save_latent
from latentopt.editing.mixing import DrawnWay, mix_drawn
from latentopt.editing.pictures import draw, film_frame, there_and_back
from latentopt.editing.sequence import Edit
from latentopt.editing.sequences import Sequences, holds_numbers
from latentopt.errors import ImageError
from latentopt.files.outputs import clear_write_errors
from latentopt.files.storage import write_atomically
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import DELTA_FILE, save_png
from latentopt.pictures.video import save_video
from latentopt.protocols import Generator, Parameterization
from latentopt.types import REPLACES, GeneratorInputs
from latentopt.watching.phases import counted

ON_SHEET = 16  # images
FRAMES = 48  # of a film, one way
FPS = 24


def edit_latents(
    generator: Generator,
    latents: Iterable[Latent],
    asked: Sequences,
    folder: Path,
    animate: bool = False,
    on_note: Callable[[str], object] = lambda text: None,
    explain: bool = False,
    film: Film | None = None,
) -> tuple[int, Path]:
    """Write every edited picture with its latents, and one sheet; `animate`: each sweep as a film too; `explain`: also
    how each was refined (the flow, the residual and where it was moved to), where the result has a refiner; `film`: the
    edits `done` one after the other as a film.

    on_note: called with what has to be said of an image, before the work on it. Returns the number of pictures and the
    sheet. Raises UsageError before any work as `Sequences.check`, ImageError for a picture that holds no numbers.
    """
    asked.check(generator)
    sheet: list[list[Tensor]] = []
    names: list[str] = []
    written = 0
    for latent in latents:
        if (note := _held(latent, generator)) is not None:
            on_note(note)
        pictures = _edit(latent, asked, generator, folder, explain)
        written += len(asked.steps)
        for sweep in asked.sweeps if animate else ():
            _film(latent, asked, sweep, generator, folder)
        if film is not None:
            _film_of_edits(latent, asked, film, generator, folder)
        if len(sheet) < ON_SHEET:
            sheet.append(pictures)
            names.append(latent.name)
    path = folder / f"{asked.title}.png"
    contact_sheet(sheet, path, columns=["target", "inversion", *asked.headings], labels=names)
    return written, path


def _held(latent: Latent, generator: Generator) -> str | None:
    """The warning about an earlier file that fixes a layer's output, and with it all that comes before; or about one
    whose refiner is not there.
    """
    if latent.note:
        return latent.note
    names = [name.removeprefix(REPLACES) for name in latent.inputs.residuals or () if name.startswith(REPLACES)]
    rows = [row for name in names if (row := generator.row_of(name)) is not None]
    if not rows:
        return None
    return f"{latent.name}: its file replaces a layer's output; edits of rows 0 to {max(rows)} hardly show"


def _edit(latent: Latent, asked: Sequences, generator: Generator, folder: Path, explain: bool) -> list[Tensor]:
    """Write the pictures of one image; target (where known), reconstruction and edited ones, for the sheet."""
    own = folder / latent.name
    keep_delta(latent, own)
    reconstruction = draw(generator, latent.redraw(latent.inputs), latent.noise_mode)
    pictures = [reconstruction if latent.target is None else latent.target, reconstruction]
    for edits in counted(asked.steps, f"editing {latent.name}", "pictures"):
        edited = asked.edited(latent.inputs, edits)
        drawn = latent.redraw(edited)
        pictures.append(draw(generator, drawn, latent.noise_mode))
        label = asked.label(edits)
        if not holds_numbers(edited) or not pictures[-1].isfinite().all():
            remedy = "; take smaller strengths" if edits else ""
            raise ImageError(f"{own / label}.png: holds values that are not numbers, and is not written{remedy}")
        save_edited(own / label, pictures[-1], drawn, latent, generator)
        if explain:
            for name, picture in latent.redraw.pictures(edited).items():
                save_png(own / f"{label}.{name}.png", picture.cpu())
    return pictures


def keep_delta(latent: Latent, folder: Path) -> None:
    """The tuned weights of a result beside what is made of it."""
    source = latent.delta
    if source is not None and source != folder / DELTA_FILE:
        with clear_write_errors(folder / DELTA_FILE):
            write_atomically(folder / DELTA_FILE, partial(_copy, source))


def save_edited(path: Path, picture: Tensor, drawn: GeneratorInputs, latent: Latent, generator: Generator) -> None:
    """A picture and the inputs that draw it as `save_latent` writes them; tuned weights lie beside (`keep_delta`)."""
    held = drawn if latent.delta is None else drawn.replace(deltas=None)
    save_latent(path, picture, held, generator, latent.result)


def _copy(source: Path, to: Path) -> None:
    shutil.copyfile(source, to)


def _film(latent: Latent, asked: Sequences, sweep: Sequence[Edit], generator: Generator, folder: Path) -> None:
    first, last = sweep[0].strength, sweep[-1].strength
    strengths = [first + (last - first) * i / (FRAMES - 1) for i in range(FRAMES)]
    sequences = [[*asked.done, replace(sweep[0], strength=strength)] for strength in strengths]
    frames = list(_frames(latent, asked, sequences, generator))
    save_video(there_and_back(frames), folder / latent.name / f"{asked.film_label(sweep)}.webp", fps=FPS)


def _film_of_edits(latent: Latent, asked: Sequences, film: Film, generator: Generator, folder: Path) -> None:
    film.save(_frames(latent, asked, between(asked.done, film.frames), generator), folder / latent.name)


def _frames(
    latent: Latent, asked: Sequences, sequences: Sequence[Sequence[Edit]], generator: Generator
) -> Iterator[np.ndarray]:
    counting = counted(sequences, f"film of {latent.name}", "pictures")
    return frames_of(generator, latent, (asked.edited(latent.inputs, edits) for edits in counting))


def mix_latents(generator: Generator, latents: Sequence[Latent], row: int, folder: Path) -> int:
    """Write each image mixed with each other, split at `row` (`split_row`), and mixed.png; returns how many."""
    rows = []
    for coarse in latents:
        pictures = []
        for fine in counted(latents, f"mixing {coarse.name}", "pictures"):
            mixed = mix_drawn(coarse.redraw, fine.redraw, row, generator)
            pictures.append(draw(generator, mixed, coarse.noise_mode))
            if coarse is not fine:
                save_latent(folder / file_name(f"{coarse.name}+{fine.name}"), pictures[-1], mixed, generator)
        rows.append(pictures)
    names = [latent.name for latent in latents]
    contact_sheet(rows, folder / "mixed.png", columns=names, labels=[f"{name}: rows 0-{row - 1}" for name in names])
    return len(latents) * (len(latents) - 1)


def interpolate_latents(
    generator: Generator,
    latents: Iterable[Latent],
    lens: Parameterization,
    space: str,
    folder: Path,
    steps: int = 7,
    animate: bool = False,
) -> int:
    """Write `steps` pictures from each image to the next, straight in `lens`, and interpolated-SPACE.png.

    Returns how many ways there are.
    """
    rows, labels, frames = [], [], []
    for first, second in pairwise(latents):
        name = f"{first.name} to {second.name}"
        pictures, way = [], DrawnWay(first.redraw, second.redraw, lens)
        for i in counted(range(steps), name, "pictures"):
            between = way(i / (steps - 1))
            pictures.append(draw(generator, between, first.noise_mode))
            if 0 < i < steps - 1:
                path = folder / file_name(f"{name}, {space}") / f"{i:03d}"
                save_latent(path, pictures[-1], between, generator)
        for i in counted(range(FRAMES if animate else 0), f"film: {name}", "pictures"):
            frames.append(film_frame(draw(generator, way(i / (FRAMES - 1)), first.noise_mode)))
        rows.append(pictures)
        labels.append(name)
    columns = [f"{i / (steps - 1):.2g}" for i in range(steps)]
    contact_sheet(rows, folder / f"interpolated-{space}.png", columns=columns, labels=labels)
    if animate:
        save_video(there_and_back(frames), folder / f"interpolated-{space}.webp", fps=FPS)
    return len(rows)
