"""Drawing samples and edited latents: pictures, sheets of what directions do, and films."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentopt.editing.direction import Direction
from latentopt.geometry.moves import PictureMove
from latentopt.pictures.channels import on_white
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import save_png, to_uint8
from latentopt.protocols import Generator
from latentopt.statistics.sampling import sample_images
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import counted

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
FILM_SIDE = 256  # pixels; smaller pictures are enlarged by a whole factor


@torch.no_grad()
def draw(generator: Generator, inputs: GeneratorInputs, noise_mode: str = "const") -> Tensor:
    """One image's picture [3,H,W], on the CPU, clipped to [-1,1]."""
    return generator.synthesis(inputs.to(generator.device), noise_mode)[0].float().clamp(-1, 1).cpu()


def save_samples(
    generator: Generator,
    seeds: Sequence[int],
    folder: Path,
    psi: float = 0.7,
    label: int | None = None,
    noise_mode: str = "const",
    grid: bool = True,
    move: PictureMove | None = None,
) -> list[Path]:
    """Write each seed's picture as seedNNNN.png and, with `grid`, all of them side by side as grid.png.

    psi, label, noise_mode: as of `sample_images`, which says what is raised; move: of every picture. Returns the files
    in the order written.
    """
    options = {} if move is None else {"moved": move}
    drawn = (
        (f"seed{seed:04d}", sample_images(generator, [seed], psi, label, noise_mode, **options)[0].cpu())
        for seed in counted(seeds, "drawing", "pictures")
    )
    return save_pictures(drawn, folder, grid)


def save_pictures(named: Iterable[tuple[str, Tensor]], folder: Path, grid: bool = True) -> list[Path]:
    """Write each picture [3,H,W] as NAME.png as it comes and, with `grid`, all of them side by side as grid.png.

    Returns the files in the order written.
    """
    written, images = [], []
    for name, image in named:
        written.append(folder / f"{name}.png")
        save_png(written[-1], image)
        if grid:
            images.append(image)
    if grid:
        columns = math.ceil(math.sqrt(len(images)))
        written.append(folder / "grid.png")
        contact_sheet([images[i : i + columns] for i in range(0, len(images), columns)], written[-1])
    return written


def direction_sheet(
    generator: Generator,
    directions: Sequence[Direction],
    codes: Tensor,
    path: Path,
    strengths: Sequence[float] = STRENGTHS,
) -> None:
    """Write a PNG: a row for each direction and each of `codes` [n,C], a column for each strength."""
    starts = [GeneratorInputs(generator.broadcast(code[None])) for code in codes.to(generator.device)]
    rows = [
        [draw(generator, direction.edit(start, strength)) for strength in strengths]
        for direction in counted(directions, "drawing the sheet", "directions")
        for start in starts
    ]
    labels = [direction.name if i == 0 else "" for direction in directions for i in range(len(starts))]
    contact_sheet(rows, path, columns=[f"{strength:+g}" for strength in strengths], labels=labels)


def film_frame(image: Tensor) -> np.ndarray:
    """A picture [3,H,W] as a frame [h,w,3], small ones enlarged."""
    factor = max(1, FILM_SIDE // max(image.shape[-2:]))
    image = on_white(image)
    return to_uint8(image.repeat_interleave(factor, -2).repeat_interleave(factor, -1))


def there_and_back(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A film that ends where it begins, and so can go on for ever."""
    return [*frames, *frames[-2:0:-1]]
