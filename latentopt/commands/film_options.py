"""What `edit` and `drag` share: the film that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError

if TYPE_CHECKING:
    from latentopt.editing.films import Film

FPS = 24


def film_options(command: Callable) -> Callable:
    """--film, --fps and --back, as the parameters `film`, `fps` and `back` of `command`."""
    for option in (
        click.option("--back", is_flag=True, help="The film also goes back to where it began."),
        click.option("--fps", type=click.IntRange(1, 240), help=f"Pictures a second of the film.  [default: {FPS}]"),
        click.option(
            "--film",
            type=UserPath(path_type=Path),
            metavar="FILE",
            help="Also write a film, .webp or .mp4 (extra: video); a bare name lies beside the image's pictures.",
        ),
    ):
        command = option(command)
    return command


def asked_film(path: Path | None, fps: int | None, back: bool, **others: int | None) -> Film | None:
    """The film; None for none. others: more of its fields, where they were given. Raises UsageError as `Film`, and for
    options of a film where none is asked for.
    """
    given = {name: value for name, value in {"fps": fps, "back": back or None, **others}.items() if value is not None}
    if path is None:
        if given:
            raise UsageError(f"--{next(iter(given))} is of a film: add --film NAME.webp")
        return None
    from latentopt.api import Film
    from latentopt.files.outputs import check_output

    if len(path.parts) > 1:
        check_output(path)
    return Film(path, **given)  # type: ignore[arg-type]
