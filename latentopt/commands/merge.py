"""latentopt merge: the parts of a run, or several runs, as one."""

from __future__ import annotations

from pathlib import Path

import click

from latentopt.commands.paths import UserPath
from latentopt.errors import InversionFailed, UsageError
from latentopt.files.text import one_line


@click.command("merge", short_help="Make one summary and packed results of the parts of a run.")
@click.argument("outs", nargs=-1, required=True, metavar="OUT...", type=UserPath(path_type=Path))
@click.option(
    "--into", type=UserPath(path_type=Path), help="Folder of what is written.  [default: OUT, where one is named]"
)
def command(outs: tuple[Path, ...], into: Path | None) -> int:
    """Merge the output folders OUT, or the parts (shard-0-of-16, ...) that lie in them.

    Writes one summary.csv, one index.html, latents-00000.safetensors and so on (`ws` of 10,000 images each) and
    manifest.parquet, which says where everything is. Pictures and all else stay where they are. Says which images
    failed or are missing; the exit code is 3 then.

    \b
    Examples:
      latentopt merge out
      latentopt merge out/shard-* --into merged
      latentopt merge monday tuesday --into merged
    """
    if into is None and len(outs) > 1:
        raise UsageError("several folders: name the one that is written to, --into")
    from latentopt.api import merge

    found = merge(outs, into or outs[0])
    status = found.rows.status
    for name, reason in found.wrong.items():
        click.echo(one_line(f"{name}: {reason}"), err=True)
    if (more := status["failed"] + status["missing"] - len(found.wrong)) > 0:
        click.echo(f"... and {more} more: see summary.csv", err=True)
    for text in [*(f"{part}: not there" for part in found.absent), *found.notes]:
        click.echo(one_line(text), err=True)
    wrong = "".join(f", {status[kind]} {kind}" for kind in ("failed", "missing") if status[kind])
    click.echo(f"{status['ok']} of {len(found.rows)} images{wrong}")
    latents = sum(path.suffix == ".safetensors" for path in found.files)
    named = "summary.csv, index.html, manifest.parquet"
    click.echo(one_line(f"{named}, {latents} file{'s' * (latents != 1)} of latents in {found.into}/"))
    return 0 if found.whole else InversionFailed.exit_code
