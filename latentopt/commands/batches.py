"""What `invert` and `tune` share: loading the generator, working through the images, telling what became of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.terminal import escape_controls
from latentopt.errors import ImageError, InversionFailed

if TYPE_CHECKING:
    from latentopt.inverting.inverter import Inverter
    from latentopt.inverting.items import Unread
    from latentopt.protocols import Generator

VIDEO_FRAMES, VIDEO_HEIGHT = 60, 256
NAME_WIDTH = 12  # columns that an image's name has at least in the printed table


def load_network(network: str, device: str, dtype: str, compiled: bool) -> Generator:
    import torch

    from latentopt.checkpoints.networks import load_generator
    from latentopt.devices import choose_device

    generator = load_generator(network, device=choose_device(device))
    for note in generator.notes:
        click.echo(escape_controls(f"{network}: {note}"), err=True)
    if dtype != "float32":
        generator.set_precision(getattr(torch, dtype)).set_memory_format(torch.channels_last)
    if compiled:
        generator.compile()
    return generator


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM) once finishes the step and saves; a second Ctrl-C stops at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        os.write(2, b"stopping after this step; once more stops now\n")  # a buffered stream may be in use just now
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def work(
    inverter: Inverter,
    items: list[Unread],
    outdir: Path,
    save_video: bool = False,
    quiet: bool = False,
    verb: str = "inverting",
) -> list[dict]:
    """Do the work under a progress line; a row for the summary of each image. Raises ImageError if none could be read."""
    from latentopt.commands.progress import Progress
    from latentopt.inverting.events import Failed, Finished, Progressed

    total = len(items) * sum(stage.steps + 1 for stage in inverter.recipe.stages)
    rows: list[dict] = []
    unreadable = 0
    frames: dict[str, list] = {}
    with Progress(total, verb, unit="image steps", quiet=quiet) as progress, interruptible() as interrupted:
        for event in inverter.invert(items, interrupted):
            if isinstance(event, Progressed):
                mean = sum(event.step.best_loss) / len(event.step.best_loss)
                progress.advance(len(event.step.rows), step=event.step.step, images=len(event.step.rows), best=mean)
                if save_video:
                    _keep_frames(frames, event)
            elif isinstance(event, Failed):
                text = f"skipped: {event.reason}" if event.unreadable else f"failed: {event.source}: {event.reason}"
                if quiet:  # no progress, but errors
                    click.echo(text, err=True)
                progress.note(text)
                rows.append({"name": event.name, "status": "failed", "error": event.reason})
                frames.pop(event.name, None)
                unreadable += event.unreadable
            elif isinstance(event, Finished):
                if event.again:
                    film = "; no film of it: --overwrite makes it again" if save_video else ""
                    progress.note(f"{event.inversion.name}: done already{film}")
                rows.append(_row(event.inversion))
                if save_video and not event.again:
                    _write_video(frames.pop(event.inversion.name, []), event.inversion, outdir)
    if unreadable == len(items):
        raise ImageError(f"none of the {unreadable} pictures could be read")
    return rows


def _row(inversion: Any) -> dict:
    record = inversion.manifest
    row = {"name": inversion.name, "status": "ok", **record["metrics"]}
    before = record.get("tuned_from", {}).get("metrics", {})
    row |= {f"{name}_before": before[name] for name in ("psnr", "ssim", "perceptual") if name in before}
    row |= {
        "seconds": record["seconds"]["optimisation"],
        "steps": record["steps"],
        "stop_reason": record["stop_reason"],
    }
    return row


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else "-"


def _keep_frames(frames: dict[str, list], event: Any) -> None:
    """About VIDEO_FRAMES pictures of each image on its way."""
    stage, rows = event.batch.recipe.stages[event.stage], event.batch.rows()
    if not rows or event.step.step % max(1, stage.steps // VIDEO_FRAMES):
        return
    names, images = event.batch.current_images()
    for name, image, target in zip(names, images, event.batch.target[rows], strict=True):
        frames.setdefault(name, []).append(_side_by_side(target, image))


def _side_by_side(target: Any, image: Any) -> Any:
    """Target left, result right, as NVIDIA's projector shows them: [3,H,W] twice -> uint8 [h,2w,3], h <= VIDEO_HEIGHT."""
    import torch

    from latentopt.pictures.images import to_uint8
    from latentopt.pictures.resizing import shrink

    pair = torch.cat([target.cpu(), image.cpu().nan_to_num()], dim=2)
    return to_uint8(shrink(pair[None], VIDEO_HEIGHT)[0])


def _write_video(frames: list, inversion: Any, outdir: Path) -> None:
    from latentopt.pictures.video import save_video

    last = _side_by_side(inversion.target, inversion.image)
    save_video([*frames, *[last] * 10], outdir / inversion.name / "proj.webp")


COLUMNS = {"psnr": "psnr", "ssim": "ssim", "perceptual": "perceptual", "radius": "radius", "seconds": "seconds"}


def report(rows: list[dict], outdir: Path, title: str, columns: Mapping[str, str] = COLUMNS) -> int:
    """Print the table, write the summary, and say by the exit code whether all is well. columns: {of a row: heading}."""
    from rich.console import Console
    from rich.table import Column, Table

    from latentopt.results.summary import write_summary

    table = Table(
        Column("image", overflow="fold", min_width=NAME_WIDTH), *columns.values(), title=title, title_justify="left"
    )
    for row in rows:
        figures = [_figure(row.get(name)) for name in columns]
        table.add_row(row["name"], *(figures if row["status"] == "ok" else ["failed"] + ["-"] * (len(columns) - 1)))
    Console(width=None if Console().is_terminal else 120).print(table)
    write_summary(outdir, rows)
    failed = [row["name"] for row in rows if row["status"] != "ok"]
    click.echo(f"{len(rows) - len(failed)} of {len(rows)} images in {outdir}/ (summary.csv, grid.png, index.html)")
    if not failed:
        return 0
    click.echo(f"failed: {', '.join(failed[:10])}{' ...' if len(failed) > 10 else ''}", err=True)
    return InversionFailed.exit_code
