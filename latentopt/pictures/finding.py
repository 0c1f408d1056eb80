"""Which pictures are meant by files, folders and glob patterns, and what is passed over there."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentopt.errors import UsageError
from latentopt.files.kinds import check_file
from latentopt.files.shards import Shard, in_shard
from latentopt.pictures.heic import HEIC_SUFFIXES, INSTALL, has_heic
from latentopt.pictures.images import RESULT_FILES

SUFFIXES = frozenset((".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"))
KINDS_NAMED = 8  # in the line on what is passed over


def suffixes() -> frozenset[str]:
    """Of the pictures that are read; HEIC's where it can be."""
    return SUFFIXES | HEIC_SUFFIXES if has_heic() else SUFFIXES


@dataclass(frozen=True)
class ImageSource:
    """A picture to invert: its file, and `key`, the name of its results relative to the output folder."""

    path: Path
    key: str


def find_images(sources: Sequence[str | Path], shard: Shard | None = None) -> list[ImageSource]:
    """The pictures named by files, folders (searched through, in name order) and glob patterns, each file once.

    Keys keep relative paths, spaces and Unicode, and stay distinct on file systems that ignore case: a clash gets
    -2, -3. Hidden files, folders that hold latentopt's own results, and sheets of samples are passed over. shard: only
    those of a part, of which there may be none. Raises UsageError, naming the source, where it gives nothing.
    """
    found: dict[str, ImageSource] = {}
    taken: set[str] = set()
    for source in sources:
        pairs = list(_expand(source))
        if not pairs:
            others = passed_over([source])
            looked = f"looked for {' '.join(sorted(suffixes()))}" + (f"; {others}" if others else "")
            raise UsageError(f"{source}: no images found there ({looked})")
        for path, relative in pairs:
            absolute = os.path.abspath(path)  # noqa: PTH100 (a link and what it points to are two pictures)
            if absolute not in found:
                found[absolute] = ImageSource(path, _distinct_key(relative, taken))
    return [image for image in found.values() if in_shard(image.key, shard)]


def _expand(source: str | Path) -> Iterator[tuple[Path, Path]]:
    """(file, name relative to the source) of each picture."""
    path = Path(source).expanduser()
    if path.is_dir():
        for file in _walk(path):
            if file.suffix.lower() in suffixes() and not _is_sheet(file):
                yield file, file.relative_to(path)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(str(source)):
        root = _fixed_part(path)
        for name in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 (Path.glob takes no absolute pattern)
            file = Path(name)
            if file.is_file() and file.suffix.lower() in suffixes():
                yield file, file.relative_to(root)
    else:
        check_file(source, "a picture or a folder of pictures", UsageError)


def _is_sheet(file: Path) -> bool:
    """Whether it is the sheet that `latentopt sample` puts beside its pictures."""
    return file.name == "grid.png" and any(file.parent.glob("seed[0-9]*.png"))


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob pattern before its first wildcard."""
    parts = pattern.parts[:-1]
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:magic])


def _walk(root: Path) -> Iterator[Path]:
    """All files of a folder but hidden ones and those of results."""
    for folder, subfolders, names in os.walk(root):
        if Path(folder) != root and _is_result(names):
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _is_result(names: Sequence[str]) -> bool:
    return {"run.json", "proj.png"} <= set(names) or {"summary.csv", "grid.png"} <= set(names)


def _distinct_key(relative: Path, taken: set[str]) -> str:
    parts = [part + "_" if _reserved(part) else part for part in (*relative.parent.parts, relative.stem)]
    key = stem = os.fsencode("/".join(parts)).decode("utf-8", "replace")  # a name need not be valid Unicode
    number = 1
    while folded(key) in taken:
        number += 1
        key = f"{stem}-{number}"
    taken.add(folded(key))
    return key


def _reserved(part: str) -> bool:
    """A result file's name, or dots that would lead out of the output folder."""
    return folded(part) in RESULT_FILES or not part.strip(".")


def folded(key: str) -> str:
    """As file systems that ignore case see a name."""
    return unicodedata.normalize("NFC", key).casefold()


def passed_over(sources: Sequence[str | Path]) -> str:
    """One line on the files in folders that are of no kind that is read, "" where there are none."""
    folders = [path for path in (Path(source).expanduser() for source in sources) if path.is_dir()]
    kinds = Counter(file.suffix.lower() or "no suffix" for folder in folders for file in _walk(folder))
    for known in suffixes():
        del kinds[known]
    if not kinds:
        return ""
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(KINDS_NAMED))
    rest = len(kinds) - KINDS_NAMED
    text = f"passed over {kinds.total()} files of kinds that are not read: {named}"
    text += f" and {rest} more kinds" if rest > 0 else ""
    return text + (f"; for HEIC {INSTALL}" if HEIC_SUFFIXES & kinds.keys() else "")
