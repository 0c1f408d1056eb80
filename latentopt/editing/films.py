"""Films of edits: every frame drawn as edited pictures are, through refiners and with tuned weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentopt.editing.latents import Latent
from latentopt.editing.pictures import draw, film_frame, there_and_back
from latentopt.editing.sequence import Edit
from latentopt.errors import UsageError
from latentopt.pictures.video import check_video, save_video
from latentopt.protocols import Generator
from latentopt.types import GeneratorInputs

FRAMES = 24  # of an edit
FPS = 24
MOST_FRAMES, MOST_FPS = 10_000, 240


@dataclass(frozen=True)
class Film:
    """A film that is asked for.

    path: its file, .webp or .mp4; a bare name lies in the folder of the image's pictures. frames: of each edit; back:
    whether it also goes back to where it began, and so can go on for ever. Raises UsageError for another ending and
    for numbers that mean nothing, LatentoptError where MP4 needs a package that is missing.
    """

    path: Path
    frames: int = FRAMES
    fps: int = FPS
    back: bool = False

    def __post_init__(self) -> None:
        check_video(self.path)
        if not 2 <= self.frames <= MOST_FRAMES:
            raise UsageError(f"frames must be from 2 to {MOST_FRAMES}, not {self.frames}")
        if not 1 <= self.fps <= MOST_FPS:
            raise UsageError(f"fps must be from 1 to {MOST_FPS}, not {self.fps}")

    @property
    def is_named(self) -> bool:
        """Whether the file says its own folder, so that it can be of one image alone."""
        return len(self.path.parts) > 1

    def place(self, folder: Path) -> Path:
        """Where the film of an image lies whose pictures are in `folder`."""
        return self.path if self.is_named else folder / self.path

    def save(self, frames: Iterable[np.ndarray], folder: Path) -> Path:
        """Write uint8 frames [h,w,3]; returns the file."""
        path = self.place(folder)
        save_video(there_and_back(list(frames)) if self.back else frames, path, fps=self.fps)
        return path


def check_films(film: Film | None, images: int) -> None:
    """Raise UsageError where films of several images would be one file."""
    if film is not None and film.is_named and images > 1:
        raise UsageError(f"{film.path}: one film for {images} images; give a bare name, {film.path.name}, for one each")


def between(done: Sequence[Edit], frames: int) -> list[list[Edit]]:
    """The edits behind each frame of a film that goes through `done` one after the other: from none of them, with
    `frames` for each, to all.
    """
    found: list[list[Edit]] = [[]]
    for i, edit in enumerate(done):
        shares = ((k + 1) / frames for k in range(frames))
        found += [[*done[:i], replace(edit, strength=edit.strength * share)] for share in shares]
    return found


def frames_of(generator: Generator, latent: Latent, edited: Iterable[GeneratorInputs]) -> Iterator[np.ndarray]:
    """Frames [h,w,3] of an image's edited inputs, drawn one by one as its edits are."""
    for inputs in edited:
        yield film_frame(draw(generator, latent.redraw(inputs), latent.noise_mode))
