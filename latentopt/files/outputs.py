"""The output folder: checked before any work, swept of what a killed run left, and write errors that name the file."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # mypy knows no modules that may be missing

from latentopt.errors import LatentoptError, UsageError

TEMPORARY = ".unfinished-"  # how the names of files that are being written begin
LEFT_BEHIND = re.compile(rf"{re.escape(TEMPORARY)}[a-z0-9_]{{8}}(\.\w+)?")


@contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn a failed write (disk full, permission, read-only) into a LatentoptError that names `path` and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise LatentoptError(f"{path}: could not be written: {_reason(error)}. Finished results are intact") from error


def _reason(error: Exception) -> str:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return "the disk is full; free some space and run the same command again"
    return getattr(error, "strerror", None) or str(error)


def check_outdir(outdir: Path) -> None:
    """Make `outdir` and prove that files can be made in it.

    Raises UsageError when it is a file, or cannot be made or written to: at once, before any model is read.
    """
    outdir = Path(outdir)
    if outdir.exists() and not outdir.is_dir():
        raise UsageError(f"{outdir}: the output folder is a file; name another with --outdir")
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=outdir)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise UsageError(f"{outdir}: cannot write to the output folder: {_reason(error)}; choose another") from error


def check_output(path: Path | None) -> None:
    """Raise UsageError, before any work, where no file could be written at `path`; None is fine."""
    if path is None:
        return
    path = Path(path)
    folder = next(parent for parent in [*path.parents, Path()] if parent.exists())
    if path.is_dir() or not folder.is_dir():
        raise UsageError(f"{path}: {'is a folder' if path.is_dir() else f'{folder} is a file'}; name another file")
    try:
        with tempfile.TemporaryFile(prefix=TEMPORARY, dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {_reason(error)}; choose another") from error


@contextmanager
def locked(outdir: Path) -> Iterator[bool]:
    """Hold `outdir` for this process; the system lets go of it whenever the process ends.

    True where it is held, False without file locks (Windows, some network disks). Raises UsageError when another
    process works in it, and where `.lock` is a link: what it points to is never touched.
    """
    if fcntl is None:
        yield False
        return
    path = Path(outdir) / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise UsageError(f"{path}: is a symbolic link; remove it, or choose another --outdir") from error
        raise UsageError(f"{path}: cannot be opened: {_reason(error)}; choose another --outdir") from error
    try:
        yield _held(handle, outdir)
    finally:
        os.close(handle)


def _held(handle: int, outdir: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{outdir}: another latentopt is at work there; wait for it, or choose another --outdir"
        ) from None
    except OSError:
        return False  # a file system that knows no locks
    return True


def refuse_link(path: Path) -> None:
    """Raise UsageError where `path` is a symbolic link, for a file that is written in place and not replaced."""
    if Path(path).is_symlink():
        raise UsageError(f"{path}: is a symbolic link, whose target would be written to; remove it")


def check_inside(outdir: Path, names: Iterable[str]) -> None:
    """Raise UsageError where a result's folder is, or lies in, a link that leads out of `outdir`."""
    root = Path(outdir).resolve()
    for name in names:
        if not (root / name).resolve().is_relative_to(root):
            raise UsageError(
                f"{outdir / name}: a link that leads out of the output folder; remove it, or choose another"
            )


def check_free(outdir: Path) -> None:
    """Raise UsageError, before anything is loaded, where `outdir` cannot be worked in or another process does."""
    check_outdir(outdir)
    with locked(outdir):
        pass


@contextmanager
def workplace(outdir: Path) -> Iterator[Path]:
    """Hold the output folder `outdir`, made and swept, for this process.

    Raises UsageError as `check_outdir` and `locked` do.
    """
    check_outdir(outdir)
    with locked(outdir) as held:
        sweep(outdir, 0.0 if held else 600.0)
        yield outdir


def sweep(outdir: Path, older_than: float = 600.0) -> list[Path]:
    """Remove the temporary files that a killed run left under `outdir`, and return their paths.

    Only names that storage.write_atomically makes, and only those not touched for `older_than` seconds: a younger one
    may belong to a run that is going on in the same folder. Folders below that have a `.lock` of
    their own may be at work although this one is held: there only files that are ten minutes old are removed.
    """
    outdir = Path(outdir)
    if not outdir.is_dir():
        return []
    now = _clock(outdir)
    removed = []
    for folder, _, names in os.walk(outdir):
        other = Path(folder) != outdir and ".lock" in names
        newest = now - (max(older_than, 600.0) if other else older_than)
        for path in (Path(folder) / name for name in names if LEFT_BEHIND.fullmatch(name)):
            try:
                if path.is_file() and path.stat().st_mtime <= newest:
                    path.unlink()
                    removed.append(path)
            except FileNotFoundError:
                continue  # its own run has just renamed it
    return sorted(removed)


def _clock(folder: Path) -> float:
    """The time now as the file system that holds `folder` tells it: a network disk's clock may differ from ours."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        return os.fstat(stream.fileno()).st_mtime
