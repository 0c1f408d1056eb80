"""What is written of a look: pictures and latents as `latentopt edit` and `latentopt mix` write them, and films."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.api import Film, Sequences, edit_latents, find_sources, mix_latents, open_sources, read_latent
from latentopt.editing.latents import file_name
from latentopt.errors import UsageError
from latentopt.files.outputs import workplace
from latentopt.pictures.images import DELTA_FILE, RUN_FILES
from latentopt.studio.lines import editing, mixing
from latentopt.studio.messages import Look

if TYPE_CHECKING:
    from latentopt.studio.session import Session

Made = dict[str, Any]
SHOWN_FILES = ("proj.png", "projected_w.npz", "inputs.safetensors", DELTA_FILE, "recipe.toml")


def keep(session: Session, look: Look) -> Made:
    """Write a look. Returns `base`, what goes on from it; `files` to take away; `commands` that write the same.

    A result that nothing was done to is there already.
    """
    base = look.base
    if look.edits:
        place, latent = session.place(base), session.latent(base)
        with workplace(_folder(place)) as folder:
            edit_latents(session.generator, [latent], _asked(session, look), folder)
        base = _below(session, _edited(session, look))
    if look.mix is not None:
        base = _mixed(session, base, look.mix.other, look.mix.row)
    return {"base": base, "files": files_of(session, base), "commands": commands_of(session, look)}


def commands_of(session: Session, look: Look) -> list[str]:
    """The command lines that make a look of its base."""
    place, network = session.place(look.base), session.generator.source
    found = []
    if look.edits:
        found.append(editing(place, [move.edit for move in look.edits], network))
        place = _edited(session, look)
    if look.mix is not None:
        coarse = _below(session, place) if look.edits else look.base
        to = _mix_folder(session, coarse, look.mix.other, look.mix.row)
        found.append(mixing(place, session.place(look.mix.other), look.mix.row, to, network))
    return found


def _below(session: Session, path: Path) -> str:
    return path.relative_to(session.root).as_posix()


def _asked(session: Session, look: Look) -> Sequences:
    return Sequences([move.edit for move in look.edits], [], session.directions)


def _edited(session: Session, look: Look) -> Path:
    """The file of latents that `latentopt edit` writes for a look's edits."""
    place, asked = session.place(look.base), _asked(session, look)
    name = place.name if place.is_dir() else place.stem
    return _folder(place) / name / f"{asked.label(asked.done)}.safetensors"


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


def _mix_folder(session: Session, coarse: str, fine: str, row: int) -> Path:
    return session.root / "mixed" / file_name(f"{_slug(coarse)}+{_slug(fine)}-at-{row}")


def _mixed(session: Session, coarse: str, fine: str, row: int) -> str:
    places = [session.place(coarse), session.place(fine)]
    sources = open_sources([source for place in places for source in find_sources(place)], session.generator)
    if len(sources) != 2 or coarse == fine:
        raise UsageError("two different results are mixed; choose another one")
    first, second = (read_latent(source, session.generator) for source in sources)
    with workplace(_mix_folder(session, coarse, fine, row)) as folder:
        mix_latents(session.generator, [first, second], row, folder)
    return _below(session, folder / f"{file_name(f'{first.name}+{second.name}')}.safetensors")


def _slug(base: str) -> str:
    return base.removesuffix(".safetensors").replace("/", "-")


def film(session: Session, look: Look) -> Made:
    """Write a film that leads through a look's edits, one after the other, and back."""
    if not look.edits or look.mix is not None:
        raise UsageError("a film shows edits: move a slider first")
    place, latent, asked = session.place(look.base), session.latent(look.base), _asked(session, look)
    asked_film = Film(Path(f"{asked.label(asked.done)}.webp"), back=True)
    with workplace(_folder(place)) as folder:
        edit_latents(session.generator, [latent], asked, folder, film=asked_film)
    words = ["--film", str(asked_film.path), "--back"]
    return {
        "files": [_below(session, folder / latent.name / asked_film.path)],
        "commands": [editing(place, asked.done, session.generator.source, words)],
    }
