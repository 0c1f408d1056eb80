"""The batches that an earlier run was in the middle of: where they are saved, and which of them go on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from latentopt.errors import CheckpointError, ImageError
from latentopt.files.outputs import clear_write_errors
from latentopt.inverting.batch import Batch
from latentopt.inverting.events import Noted
from latentopt.inverting.items import Item, Unread, read
from latentopt.inverting.keeping import Keeping
from latentopt.inverting.saved_state import DamagedState

RESUME_FOLDER = ".resume"


def resume_path(folder: Path, items: Sequence[Item], keeping: Keeping) -> Path:
    """Where in `folder` the batch of these images is saved: one with other results to come lies elsewhere."""
    digest = hashlib.sha256("".join(f"{item.name}{keeping.key(item)}" for item in items).encode()).hexdigest()
    return folder / f"{digest[:16]}.safetensors"


def interrupted_batches(
    left: Mapping[str, Item | Unread], folder: Path | None, keeping: Keeping
) -> Iterator[tuple[Path, list[Item] | DamagedState]]:
    """The batches saved in `folder` whose images are all named now, or what is wrong with one; stale and finished ones
    are removed, others kept.
    """
    if folder is None:
        return
    for path in sorted(folder.glob("*.safetensors")):
        try:
            names = Batch.read_keys(path)
            if not all(name in left for name in names):
                continue
            items = [read(left[name]) for name in names]
        except DamagedState as error:
            yield path, error
            continue
        except (CheckpointError, ImageError):
            path.unlink(missing_ok=True)
            continue
        finished = all(keeping.is_done(item) for item in items)
        if resume_path(folder, items, keeping) == path and not finished:
            yield path, items
        else:
            path.unlink(missing_ok=True)


def set_aside(path: Path, error: DamagedState) -> Noted:
    """Rename a damaged saved batch, so that it is not tried again, and say so."""
    aside = path.with_suffix(".damaged")
    with clear_write_errors(aside):
        path.replace(aside)
    return Noted(f"{error}: set aside as {aside.name}, its images begin anew")


def remove_saved(path: Path) -> None:
    """Remove what was saved of a batch that is done, and the folders that it was the last in."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or another batch still has its state in it
        path.parent.rmdir()
        if path.parent.name != RESUME_FOLDER:
            path.parent.parent.rmdir()
