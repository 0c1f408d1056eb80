"""Work on many images, followed to its end: the folder is held, the summary written, failures told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from latentopt.devices import Profile
from latentopt.errors import InversionFailed, UsageError
from latentopt.files.outputs import check_inside, workplace
from latentopt.files.plan import write_plan
from latentopt.inverting.events import Event, Failed, Finished
from latentopt.inverting.items import Item, Unread
from latentopt.inverting.resuming import RESUME_FOLDER
from latentopt.results.inversion import Inversion
from latentopt.results.rows import Rows
from latentopt.results.summary import TITLE, write_summary
from latentopt.watching.interruption import Interrupted

OnEvent = Callable[[Event], None]


def follow(
    events_of: Callable[[Sequence[Item | Unread], Interrupted], Iterable[Event]],
    items: Sequence[Item | Unread],
    out: Path | None,
    overwrite: bool,
    on_event: OnEvent | None,
    interrupted: Interrupted,
    keep: bool,
    title: str = TITLE,
    after: Callable[[], None] = lambda: None,
    profile: Profile | None = None,
    planned: bool = False,
) -> list[Inversion]:
    """Work on `items` in the folder `out`, write the summary under its `title`, and return the results in order.

    after: called when all had their turn, while the folder is still held. planned: the names of all images are put on
    record first, for `latentopt merge`. Raises InversionFailed at the end, where some failed.
    """
    if len({item.name for item in items}) != len(items):
        raise UsageError("two images have the same name; pass distinct names=[...]")
    found: dict[str, Inversion] = {}
    failed: list[Failed] = []
    rows = Rows()
    place = {item.name: i for i, item in enumerate(items)}
    with nullcontext() if out is None else workplace(out):
        if out is not None:
            check_inside(out, [RESUME_FOLDER, *(item.name for item in items)])
        if out is not None and overwrite:
            for item in items:
                (out / item.name / "run.json").unlink(missing_ok=True)
        if out is not None and planned:
            write_plan(out, place)
        for event in events_of(items, interrupted):
            if isinstance(event, Failed):
                failed.append(event)
                rows.add(event.row)
            elif isinstance(event, Finished):
                rows.add(event.row)
                if keep:
                    found[event.inversion.name] = event.inversion
            if on_event is not None:
                on_event(event)
        if out is not None and not (failed and all(event.unreadable for event in failed) and len(failed) == len(items)):
            with (profile or Profile(on=False)).part("files"):
                rows.sort(place.__getitem__)
                write_summary(out, rows, title)
        after()
    if failed:
        reasons = "; ".join(f"{event.source}: {event.reason}" for event in failed[:5])
        raise InversionFailed(f"{len(failed)} of {len(items)} images failed: {reasons}", found)
    return [found[item.name] for item in items] if keep else []
