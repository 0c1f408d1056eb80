"""Names that come from a page, as places below the session's folder: none leads out of it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from latentopt.errors import UsageError
from latentopt.files.resources import PACKAGE

SAMPLES = "samples"  # how the names of bundled pictures begin
ALIGNED = "aligned"  # the folder below the session's in which faces lie
PICTURES = "pictures"  # the folder below the session's in which pictures from pages lie


def inside(root: Path, name: str) -> Path:
    """The path of `name` below `root`. Raises UsageError for names that lead elsewhere, links followed, and for hidden
    files.
    """
    parts = PurePosixPath(name).parts
    bad = not parts or "\\" in name or "\0" in name or any(p.startswith(("/", ".")) or ":" in p for p in parts)
    path = root.joinpath(*parts) if not bad else root
    try:
        if bad or not path.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{name[:80]!r} is no place in the session's folder")
    except (OSError, ValueError):
        raise UsageError(f"{name[:80]!r} is no place in the session's folder") from None
    return path


def picture_path(root: Path, key: str) -> Path:
    """The file of a picture: `samples/NAME` is a bundled one. Raises UsageError where there is none."""
    folder = PACKAGE / "bundled" / SAMPLES
    name = key.removeprefix(f"{SAMPLES}/")
    path = inside(folder, name) if key.startswith(f"{SAMPLES}/") else inside(root, key)
    if not path.is_file():
        raise UsageError(f"{key[:80]!r}: no such picture in this session")
    return path


def sample_keys() -> list[str]:
    """The bundled pictures, those outside the generator's domain last."""
    names = sorted(path.name for path in (PACKAGE / "bundled" / SAMPLES).glob("*.png"))
    return [f"{SAMPLES}/{name}" for name in sorted(names, key=lambda name: name.startswith("out-"))]


def in_words(path: Path) -> str:
    """A path as one types it: from the working folder where it lies below that."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
