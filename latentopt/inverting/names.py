"""Names of results: paths below the output folder that are no file of ours and no other picture's result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentopt.errors import CheckpointError, UsageError
from latentopt.results.inversion import read_run
from latentopt.results.manifest import file_of

LONGEST_NAME = 200  # bytes; a file system takes 255
OWN_FILES = (
    ".lock",
    ".resume",
    ".ledger",
    ".pages",
    "summary.csv",
    "index.html",
    "grid.png",
    "steps.csv",
    "heat-maps.png",
)


@dataclass(frozen=True)
class Picture:
    """A picture that is to have a result: the name that it would like, its file, and the hash of that file."""

    name: str
    path: Path
    sha256: Callable[[], str]

    def is_of(self, folder: Path) -> bool:
        """Whether the result in `folder` is of this picture, perhaps as the file was before a change; or there is none
        that can be read.
        """
        try:
            source = read_run(folder)["source"]
        except CheckpointError:
            return True
        same_file = source.get("file") and source["file"] == file_of(self.path)
        return bool(same_file) or source["sha256"] == self.sha256()


def file_hash(path: Path) -> str:
    """The hash of a file's bytes; "" where it cannot be read, which is told when its turn comes."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


Beside = Callable[[str], Sequence[str]]
"""The names of further results of a picture, by that of its first."""


def none_beside(name: str) -> Sequence[str]:
    return ()


def free_names(pictures: Sequence[Picture], folders: Sequence[Path], beside: Beside = none_beside) -> list[str]:
    """A name for each: its own or, where a folder has another picture's result of that name or of one `beside` it, with
    -2, -3 ... added.
    """
    taken = {picture.name for picture in pictures}
    names = []
    for picture in pictures:
        name, number = picture.name, 1
        while not _is_free(picture, name, number > 1, folders, beside(name), taken):
            number += 1
            name = f"{picture.name}-{number}"
        taken |= {name, *beside(name)}
        names.append(name)
    return names


def _is_free(
    picture: Picture, name: str, new: bool, folders: Sequence[Path], further: Sequence[str], taken: set[str]
) -> bool:
    """Whether no other picture has the name, if it is a `new` one, or one of the further ones."""
    if taken.intersection([name, *further] if new else further):
        return False
    return all(picture.is_of(folder / one) for folder in folders for one in (name, *further))


def check_names(names: Sequence[str], taken: Sequence[str] = OWN_FILES) -> None:
    """Raise UsageError for names that are no paths below the output folder, or that `taken` has: files of ours."""
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"names= are texts, not {name!r}")
        parts = name.split("/")
        try:
            long = max(len(part.encode()) for part in parts) > LONGEST_NAME
        except UnicodeEncodeError:
            raise UsageError(f"the name {name!a} has half a surrogate pair in it; choose another") from None
        if long or "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise UsageError(
                f"the name {name[:80]!a} is no path below the output folder: parts of 1 to {LONGEST_NAME} bytes "
                "joined by single slashes, without '.', '..', backslash or NUL"
            )
        if parts[0] in taken:
            raise UsageError(f"the name {name!r} is that of a file that latentopt writes itself; choose another")
