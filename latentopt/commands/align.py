"""latentopt align: cut the faces out of photographs, as StyleGANs of faces expect them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.paths import UserPath
from latentopt.errors import ImageError, InversionFailed
from latentopt.files.text import one_line

if TYPE_CHECKING:
    from latentopt.faces.aligning import Aligned


@click.command("align", short_help="Cut the faces out of photographs, aligned as FFHQ's.")
@click.argument("pictures", nargs=-1, required=True, type=UserPath())
@shared.align(default="faces", show_default=True)
@shared.points()
@shared.largest()
@shared.detector()
@click.option("--size", default=1024, show_default=True, type=click.IntRange(8, 4096), help="Pixels a side.")
@shared.outdir(default="aligned")
@click.option("--overwrite", is_flag=True, help="Replace files of other pictures there.")
@shared.quiet()
def command(
    pictures: tuple[str, ...],
    align: str,
    points: str | None,
    largest: bool,
    detector: str,
    size: int,
    outdir: Path,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Cut every face out of PICTURES (files, folders, globs), turned upright and centred as the pictures of FFHQ.

    Each becomes NAME.png, and NAME.json remembers which square of which photograph it is, so that latentopt paste can
    put it back; several faces of a photograph become NAME-1, NAME-2 and so on, the largest first. Finding faces needs
    the extra `faces`; with points of your own (--points), or a box, nothing does. latentopt invert --align faces does
    the same on the way.

    \b
    Examples:
      latentopt align photos/ --outdir aligned
      latentopt align group.jpg --largest --size 256
      latentopt align me.jpg --points "310,220 398,224 318,330 388,333"
      latentopt align photos/ --points landmarks.csv
      latentopt align cat.jpg --align box:100,40,512
    """
    from latentopt.api import align as align_pictures

    count, failed = [0], [0]

    def told(aligned: Aligned) -> None:
        count[0] += 1
        if not quiet:
            click.echo(one_line(f"{aligned.path}: {aligned.alignment.note}"))

    def skipped(error: ImageError) -> None:
        failed[0] += 1
        click.echo(one_line(f"skipped: {error}"), err=True)

    try:
        align_pictures(
            list(pictures),
            align,
            points=points,
            detector=detector,
            largest=largest,
            size=size,
            out=outdir,
            overwrite=overwrite,
            on_aligned=told,
            on_failed=skipped,
            keep=False,
        )
    except InversionFailed:
        if not count[0]:
            raise ImageError("none of the pictures could be aligned") from None
    click.echo(one_line(f"{count[0]} aligned pictures in {outdir}/"))
    return InversionFailed.exit_code if failed[0] else 0
