"""What `invert` and `tune` share: loading the generator, working through the images, telling what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.interrupting import interruptible
from latentopt.errors import ImageError, InversionFailed, LatentoptError
from latentopt.files.text import escape_controls, one_line
from latentopt.results.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from latentopt.commands.progress import Progress
    from latentopt.inverting.events import Event, Failed, Finished, Progressed
    from latentopt.protocols import Generator

VIDEO_FRAMES, VIDEO_HEIGHT = 60, 256
ROWS_SHOWN = 200  # of the printed table
NAME_WIDTH = 12  # columns that an image's name has at least in the printed table


low_memory_option = click.option(
    "--low-memory", is_flag=True, help="Keep less for gradients: large layers are computed twice. By itself if short."
)


def load_network(
    network: str, device: str, dtype: str = "float32", compiled: bool = False, low_memory: bool = False
) -> Generator:
    import torch

    from latentopt.checkpoints.networks import load_generator
    from latentopt.devices import choose_device, computes_in_bfloat16

    generator = load_generator(network, device=choose_device(device))
    if dtype == "bfloat16" and not computes_in_bfloat16(generator.device):
        click.echo("this device has no instructions for bfloat16: --dtype float32 is faster here", err=True)
    for note in generator.notes:
        click.echo(escape_controls(f"{network}: {note}"), err=True)
    if dtype != "float32":
        generator.set_precision(getattr(torch, dtype)).set_memory_format(torch.channels_last)
    generator.set_low_memory(low_memory)
    if compiled:
        generator.compile()
    return generator


def load_recorded(
    network: str | None, recorded: str, made: str, device: str, dtype: str = "float32", low_memory: bool = False
) -> Generator:
    """The generator `network` or, without one, that which is on record; `made` is what was made with it.

    Raises the error of the file, with the remedy where it was not named here: it may have moved.
    """
    try:
        return load_network(network or recorded, device, dtype, low_memory=low_memory)
    except LatentoptError as error:
        if network is not None or not made:
            raise
        remedy = f"It is what {made} was made with; if it has moved, say where: --network FILE"
        raise type(error)(f"{str(error).rstrip('.')}. {remedy}") from error


class ProgressLine:
    """Shows what happens to images under a progress line, and keeps a row of the table for each.

    per_image: what the line counts for an image. What is left out, since the image was done before, failed or reached
    its end early, counts as done, but not in the rate. films: see --save-video.
    """

    def __init__(self, progress: Progress, quiet: bool, per_image: int, films: Films | None = None) -> None:
        self.progress, self.quiet, self.per_image, self.films = progress, quiet, per_image, films
        self.rows = Rows()
        self.unreadable = 0

    def __call__(self, event: Event) -> None:
        from latentopt.inverting.events import Advanced, Failed, Finished, Measured, Noted, Progressed

        if isinstance(event, Noted):
            click.echo(one_line(event.text), err=True)
        elif isinstance(event, Progressed):
            mean = sum(event.step.best_loss) / len(event.step.best_loss)
            count = len(event.step.rows)
            self.progress.advance(count, step=event.step.step, images=count, best=mean)
        elif isinstance(event, Advanced):
            self.progress.advance(event.steps)
        elif isinstance(event, Measured):
            self.progress.advance(event.pictures, step="measuring")
        elif isinstance(event, Failed):
            self._failed(event)
        elif isinstance(event, Finished):
            self._finished(event)
        if isinstance(event, Failed | Finished):
            self.progress.reach(self.per_image * len(self.rows))
        if self.films is not None:
            self.films(event)

    def _failed(self, event: Failed) -> None:
        text = one_line(f"skipped: {event.reason}" if event.unreadable else f"failed: {event.source}: {event.reason}")
        if self.quiet:  # no progress, but errors
            click.echo(text, err=True)
        self.progress.note(text)
        self.rows.add(event.row)
        self.unreadable += event.unreadable

    def _finished(self, event: Finished) -> None:
        if event.again:
            film = "; no film of it: --overwrite makes it again" if self.films is not None else ""
            self.progress.note(f"{one_line(event.name)}: done already{film}")
        self.rows.add(event.row)


class Films:
    """Keeps about VIDEO_FRAMES pictures of each image on its way, and writes them as proj.webp when it is done."""

    def __init__(self, outdir: Path) -> None:
        self.outdir = outdir
        self.frames: dict[str, list[np.ndarray]] = {}

    def __call__(self, event: Event) -> None:
        from latentopt.inverting.events import Failed, Finished, Progressed
        from latentopt.pictures.video import save_video

        if isinstance(event, Progressed):
            self._keep(event)
        elif isinstance(event, Failed):
            self.frames.pop(event.name, None)
        elif isinstance(event, Finished) and not event.again:
            inversion = event.inversion
            last = side_by_side(inversion.target, inversion.image)
            frames = self.frames.pop(inversion.name, [])
            save_video([*frames, *[last] * 10], self.outdir / inversion.name / "proj.webp")

    def _keep(self, event: Progressed) -> None:
        batch = event.batch
        stage, rows = batch.recipe.stages[event.stage], batch.rows()
        if not rows or event.step.step % max(1, stage.steps // VIDEO_FRAMES):
            return
        names, images = batch.current_images()
        for name, image, target in zip(names, images, batch.target[rows], strict=True):
            self.frames.setdefault(name, []).append(side_by_side(target, image))


def side_by_side(target: Tensor, image: Tensor) -> np.ndarray:
    """Target left, result right, as NVIDIA's projector has them: [3,H,W] twice -> uint8 [h,2w,3], h <= VIDEO_HEIGHT."""
    import torch

    from latentopt.pictures.channels import on_white
    from latentopt.pictures.images import to_uint8
    from latentopt.pictures.resizing import shrink

    pair = on_white(torch.cat([target.cpu(), image.cpu().nan_to_num()], dim=2))
    return to_uint8(shrink(pair[None], VIDEO_HEIGHT)[0])


def watched(
    call: Callable[..., object],
    images: int,
    *,
    steps: int = 1,
    beside: int = 0,
    verb: str = "inverting",
    unit: str = "image steps",
    films: Films | None = None,
    quiet: bool = False,
) -> Rows:
    """Call `call(on_event=, interrupted=)` under a progress line of `images` times `steps`; a row for each image.

    beside: what is counted once, beside the images.

    Raises ImageError if none could be read; other failures were told as they happened, and have their rows.
    """
    from latentopt.commands.progress import Progress

    progress = Progress(images * steps + beside, verb, unit=unit, quiet=quiet)
    watch = ProgressLine(progress, quiet, steps, films)
    try:
        with progress, interruptible() as interrupted, suppress(InversionFailed):
            call(on_event=watch, interrupted=interrupted)
    except LatentoptError:  # such as a full disk at the summary: the figures are not lost
        if len(watch.rows):
            print_table(watch.rows, "finished before the error")
        raise
    if images and watch.unreadable == images:
        raise ImageError(f"none of the {images} pictures could be read")
    return watch.rows


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else "-"


COLUMNS = {"psnr": "psnr", "ssim": "ssim", "perceptual": "perceptual", "radius": "radius", "seconds": "seconds"}


def report(rows: Rows, outdir: Path, title: str, columns: Mapping[str, str] = COLUMNS) -> int:
    """Print the table, and say by the exit code whether all is well. columns: {of a row: heading}."""
    from latentopt.inverting.events import is_unsteady

    print_table(rows, title, columns)
    failed = rows.status.total() - rows.status["ok"]
    where = one_line(str(outdir))
    click.echo(f"{len(rows) - failed} of {len(rows)} images in {where}/ (summary.csv, grid.png, index.html)")
    if failed:
        first = islice((one_line(row["name"]) for row in rows if row["status"] != "ok"), 10)
        click.echo(f"failed: {', '.join(first)}{' ...' if failed > 10 else ''}", err=True)
    unsteady = 0
    for row in filter(is_unsteady, rows):
        unsteady += 1
        if unsteady <= 10:
            click.echo(one_line(f"{row['name']}: {row['stop_reason']}; try a lower --lr, or --dtype float32"), err=True)
    if unsteady > 10:
        click.echo(f"... and {unsteady - 10} more without a finite loss in some steps", err=True)
    return InversionFailed.exit_code if failed or unsteady else 0


def print_table(rows: Rows, title: str, columns: Mapping[str, str] = COLUMNS) -> None:
    """A row an image, its figures under the headings of `columns`; of very many the first ones."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        Column("image", overflow="fold", min_width=NAME_WIDTH),
        *columns.values(),
        title=Text(one_line(title)),
        title_justify="left",
    )
    for row in islice(rows, ROWS_SHOWN):
        figures = [_figure(row.get(name)) for name in columns]
        table.add_row(
            Text(one_line(row["name"])),
            *(figures if row["status"] == "ok" else ["failed"] + ["-"] * (len(columns) - 1)),
        )
    Console(width=None if Console().is_terminal else 120).print(table)
    if len(rows) > ROWS_SHOWN:
        click.echo(f"the first {ROWS_SHOWN} of {len(rows)} images; all are in summary.csv")
