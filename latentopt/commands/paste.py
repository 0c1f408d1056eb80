"""latentopt paste: put results and their edits back in the photographs that they were cut out of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.paths import UserPath
from latentopt.errors import ImageError, InversionFailed
from latentopt.files.text import one_line

if TYPE_CHECKING:
    from latentopt.faces.blending import Blend, Colour, Part
    from latentopt.faces.pasting import Pasted


@click.command("paste", short_help="Put edited faces back in their photographs.")
@click.argument("edited", nargs=-1, type=UserPath())
@click.option("--photo", type=UserPath(path_type=Path), help="The photograph, where it has moved.")
@click.option("--alignment", type=UserPath(path_type=Path), metavar="FILE|RUN",
              help="Where pictures without a record of it were: a file of latentopt align, or a result.")  # fmt: skip
@click.option("--part", default="crop", show_default=True, type=click.Choice(["crop", "face"]),
              help="What is put back: all of the aligned picture, or an ellipse around the face.")  # fmt: skip
@click.option("--feather", default=0.1, show_default=True, type=click.FloatRange(0, 0.5),
              help="Width of the transition, in sides of the aligned picture.")  # fmt: skip
@click.option("--blend", default="feather", show_default=True, type=click.Choice(["feather", "poisson"]),
              help="Mix both in the transition, or keep gradients and shift colours smoothly.")  # fmt: skip
@click.option("--colour", default="match", show_default=True, type=click.Choice(["match", "keep"]),
              help="Give it mean and contrast of the photograph along the seam, or not.")  # fmt: skip
@click.option("--together", is_flag=True, help="All faces of a photograph in one picture.")
@shared.outdir()
@shared.to()
@shared.quiet()
def command(
    edited: tuple[str, ...],
    photo: Path | None,
    alignment: Path | None,
    part: Part,
    feather: float,
    blend: Blend,
    colour: Colour,
    together: bool,
    outdir: Path,
    to: Path | None,
    quiet: bool,
) -> int:
    """Put EDITED faces back in the photographs that they were cut out of: folders of runs made with --align faces, or
    pictures that latentopt edit made of them. The newest run in --outdir by default.

    Pictures are written as PNG into --to, or the folder `pasted` in --outdir, upright and of the photograph's size.
    Every pixel outside the seam is the photograph's own. Where a picture was is read from its result, or from the JSON
    that latentopt align wrote beside it.

    \b
    Examples:
      latentopt paste
      latentopt paste out/edits/anna/smile+2.png --blend poisson
      latentopt paste out/group-1 out/group-2 --together
      latentopt paste out/anna --photo /elsewhere/anna.jpg --part face
    """
    from latentopt.api import Seam, named_alignment, newest_run, paste

    sources = list(edited) or [str(result.folder) for result in newest_run(outdir)[0]]
    count, failed = [0], [0]

    def told(pasted: Pasted) -> None:
        count[0] += 1
        if not quiet:
            click.echo(one_line(str(pasted.path)))

    def skipped(reason: str) -> None:
        failed[0] += 1
        click.echo(one_line(f"failed: {reason}"), err=True)

    folder = to or outdir / "pasted"
    try:
        paste(
            sources,
            photo,
            seam=Seam(part, feather, blend, colour),
            together=together,
            alignment=None if alignment is None else named_alignment(alignment),
            out=folder,
            on_pasted=told,
            on_failed=skipped,
            keep=False,
        )
    except InversionFailed:
        if not count[0]:
            raise ImageError("none of the pictures could be pasted") from None
    click.echo(one_line(f"{count[0]} pictures in {folder}/"))
    return InversionFailed.exit_code if failed[0] else 0
