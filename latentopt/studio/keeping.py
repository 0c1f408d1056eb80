"""What is written of a look: pictures and latents as `latentopt edit` and `latentopt mix` write them, and films."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.api import Sequences, edit_latents, find_sources, mix_latents, open_sources, read_latent
from latentopt.editing.latents import file_name
from latentopt.editing.sequence import Edit
from latentopt.errors import UsageError
from latentopt.files.outputs import workplace
from latentopt.pictures.images import DELTA_FILE, RUN_FILES
from latentopt.studio.lines import editing, filming, mixing
from latentopt.studio.messages import Look

if TYPE_CHECKING:
    from latentopt.studio.session import Session

Made = dict[str, Any]
SHOWN_FILES = ("proj.png", "projected_w.npz", "inputs.safetensors", DELTA_FILE, "recipe.toml")


def keep(session: Session, look: Look) -> Made:
    """Write a look. Returns `base`, what goes on from it; `files` to take away, by what they are; `commands`.

    A result that nothing was done to is there already.
    """
    base, commands = look.base, []
    if look.edits:
        base, command = _edited(session, look)
        commands.append(command)
    if look.mix is not None:
        base, command = _mixed(session, base, look.mix.other, look.mix.row)
        commands.append(command)
    return {"base": base, "files": files_of(session, base), "commands": commands}


def files_of(session: Session, base: str) -> list[str]:
    """The files of a result, or those that lie with a file of latents, as names below the session's folder."""
    place = session.place(base)
    if place.is_dir():
        found = [place / name for name in SHOWN_FILES if name in (*RUN_FILES, DELTA_FILE)]
    else:
        found = [place.with_suffix(".png") if place.suffix == ".safetensors" else place, place]
        found.append(place.with_name(DELTA_FILE))
    return [path.relative_to(session.root).as_posix() for path in found if path.is_file()]


def _folder(place: Path) -> Path:
    """Where `latentopt edit` puts what it makes of a result's folder or a file."""
    return (place if place.is_dir() else place.parent) / "edits"


def _edited(session: Session, look: Look) -> tuple[str, str]:
    place, latent = session.place(look.base), session.latent(look.base)
    asked = Sequences([move.edit for move in look.edits], [], session.directions)
    with workplace(_folder(place)) as folder:
        edit_latents(session.generator, [latent], asked, folder)
    path = folder / latent.name / f"{asked.label(asked.done)}.safetensors"
    return path.relative_to(session.root).as_posix(), editing(place, asked.done, session.generator.source)


def _mixed(session: Session, coarse: str, fine: str, row: int) -> tuple[str, str]:
    places = [session.place(coarse), session.place(fine)]
    sources = open_sources([source for place in places for source in find_sources(place)], session.generator)
    if len(sources) != 2 or coarse == fine:
        raise UsageError("two different results are mixed; choose another one")
    first, second = (read_latent(source, session.generator) for source in sources)
    to = session.root / "mixed" / file_name(f"{_slug(coarse)}+{_slug(fine)}-at-{row}")
    with workplace(to) as folder:
        mix_latents(session.generator, [first, second], row, folder)
    path = to / f"{file_name(f'{first.name}+{second.name}')}.safetensors"
    return path.relative_to(session.root).as_posix(), mixing(*places, row, to, session.generator.source)


def _slug(base: str) -> str:
    return base.removesuffix(".safetensors").replace("/", "-")


def film(session: Session, look: Look) -> Made:
    """Write a film that leads from the look without its last edit to the whole look and back."""
    if not look.edits or look.mix is not None:
        raise UsageError("a film shows an edit: move a slider first")
    place, latent = session.place(look.base), session.latent(look.base)
    *done, last = [move.edit for move in look.edits]
    sweep = [Edit(last.name, 0.0, last.layers), last]
    asked = Sequences(done, [sweep], session.directions)
    with workplace(_folder(place)) as folder:
        edit_latents(session.generator, [latent], asked, folder, animate=True)
    name = file_name("_".join([*(edit.label for edit in done), last.name]))
    path = folder / latent.name / f"{name}.webp"
    command = filming(place, done, last, session.generator.source)
    return {"files": [path.relative_to(session.root).as_posix()], "commands": [command]}
