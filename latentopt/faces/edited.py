"""Aligned pictures that are to be put back: results, edits of them, or what another program made of an aligned one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from latentopt.errors import CheckpointError, ImageError, UsageError
from latentopt.faces.aligning import record_path
from latentopt.faces.alignment import Alignment, from_record
from latentopt.files.kinds import check_file
from latentopt.pictures.finding import find_images
from latentopt.pictures.images import read_png
from latentopt.results.earlier import WRITTEN, find_results
from latentopt.results.inversion import Inversion, read_run
from latentopt.watching.phases import tell

RESULT = "proj.png"


@dataclass(frozen=True)
class Edited:
    """A picture [C,h,w] in [-1,1] that is read when its turn comes, its name, and where it was in its photograph."""

    name: str
    read: Callable[[], Tensor]
    alignment: Alignment


def find_edited(path: Path, alignment: Alignment | None = None) -> list[Edited]:
    """The results in or below a folder or, where it has none, its pictures; or the picture that is named.

    alignment: of pictures that have none on record. Raises ImageError for a picture without one, and for a folder in
    which nothing has one; UsageError for what is not there.
    """
    path = Path(path)
    if not path.is_dir():
        check_file(path, "the folder of a run, or an edited picture", UsageError)
        return [_of_picture(path, path.stem, alignment)]
    results = next(path.rglob("run.json"), None) is not None
    found = list(_results(path, alignment) if results else _pictures(path, alignment))
    if not found:
        what = "its results were not aligned" if results else "none of its pictures is on record as aligned"
        raise ImageError(f"{path}: {what}; align on the way (latentopt invert --align faces), or name --alignment FILE")
    return found


def _results(folder: Path, alignment: Alignment | None) -> Iterator[Edited]:
    for result in find_results(folder):
        if "alignment" in result.record or alignment is not None:
            where = _on_record(result.folder) or alignment
            assert where is not None
            yield Edited(result.name, partial(read_png, result.folder / RESULT), where)
        else:
            tell(f"{result.name}: left out, it was not aligned")


def _pictures(folder: Path, alignment: Alignment | None) -> Iterator[Edited]:
    for source in find_images([folder]):
        try:
            yield _of_picture(source.path, source.key, alignment)
        except ImageError:
            tell(f"{source.path}: left out, no alignment of it is on record")


def of_inversion(inversion: Inversion) -> Edited:
    """A result that is at hand. Raises ImageError where it was not aligned."""
    if "alignment" not in inversion.manifest:
        raise ImageError(f"{inversion.name}: it was not aligned; invert it with align='faces'")
    return Edited(inversion.name, lambda: inversion.image, from_record(inversion.manifest["alignment"]))


def _of_picture(path: Path, name: str, alignment: Alignment | None) -> Edited:
    where = alignment_for(path) or alignment
    if where is None:
        raise ImageError(f"{path}: no alignment of it is on record; name it: --alignment FILE, or the folder of a run")
    return Edited(name, partial(read_png, path), where)


def alignment_for(path: Path) -> Alignment | None:
    """On record for an aligned picture or an edit: in the file beside it (NAME.json), in the result that it lies in, or
    in the result that it was made of, as latentopt edit names its folders. Raises ImageError for a damaged record.
    """
    if record_path(path).is_file():
        return Alignment.load(record_path(path))
    folder = path.parent
    made_of = [
        Path(*folder.parts[:i], *folder.parts[i + 1 :]) for i, part in enumerate(folder.parts) if part in WRITTEN
    ]
    near = [folder, *folder.parents[:3], *reversed(made_of)]
    return next(filter(None, map(_on_record, near)), None)


def _on_record(folder: Path) -> Alignment | None:
    """Of a result's folder; None where that is none, or was not aligned."""
    try:
        record = read_run(folder).get("alignment")
        return None if record is None else from_record(record)
    except CheckpointError:
        return None
    except ValueError as error:
        raise ImageError(f"{folder / 'run.json'}: its alignment is damaged ({error}); invert it again") from error


def named_alignment(path: Path) -> Alignment:
    """Of a file that latentopt align wrote, or of a result's folder. Raises ImageError where there is none."""
    if not Path(path).is_dir():
        return Alignment.load(check_file(path, "an alignment, as latentopt align writes it", UsageError))
    if (found := _on_record(Path(path))) is None:
        raise ImageError(f"{path}: no result that was aligned")
    return found


def with_names(edited: Sequence[Edited]) -> list[Edited]:
    """The same, with names that differ."""
    taken: set[str] = set()
    found = []
    for one in edited:
        name, number = one.name, 1
        while name in taken:
            number += 1
            name = f"{one.name}-{number}"
        taken.add(name)
        found.append(Edited(name, one.read, one.alignment))
    return found
