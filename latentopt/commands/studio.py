"""latentopt studio: the page in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from latentopt.commands import shared
from latentopt.commands.paths import UserPath
from latentopt.errors import LatentoptError
from latentopt.files.outputs import check_outdir
from latentopt.files.text import escape_controls

EXTRA = "the studio needs its extra: pip install 'latentopt[ui]'"
LOCAL = ("127.0.0.1", "localhost", "::1")


@click.command("studio", short_help="Invert, edit and compare in the browser.")
@click.argument("run", required=False, type=UserPath(exists=True, path_type=Path))
@shared.network(default=None, show_default=f"{shared.LIKE_RUN}, else portraits")
@shared.outdir()
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen at.  [default: 8642, or a free one]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others than this machine's "
              "own let everybody in who knows the token.")  # fmt: skip
@click.option("--no-open", is_flag=True, help="Print the address, and do not open the browser.")
@shared.device()
def command(
    run: Path | None, network: str | None, outdir: Path, port: int | None, host: str, no_open: bool, device: str
) -> None:
    """Open one page on this machine that inverts, edits, tunes and compares pictures while you look on.

    It works in --outdir or, where it is named, in the folder RUN of earlier results, exactly as the other commands do:
    what they have made opens here, and what is made here they go on from. Nothing leaves the machine, and no other page
    can drive it: the address that is printed holds a token. Ctrl-C ends it; a run that is going on is saved first.

    \b
    Examples:
      latentopt studio
      latentopt studio out/ii2s
      latentopt studio --network ffhq.pkl --outdir results --no-open
    """
    try:
        from latentopt.studio.serving import listen, serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "wsproto", "anyio"):
            raise
        raise LatentoptError(EXTRA) from None
    import torch

    from latentopt.commands.batches import load_recorded
    from latentopt.studio.session import Session

    root = outdir if run is None else run
    check_outdir(root)
    address = listen(host, port)
    if host not in LOCAL:
        click.echo(f"--host {host}: whoever can reach this machine and knows the token can use the studio; there is no "
                   "encryption", err=True)  # fmt: skip
    recorded = _recorded(root)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # the browser needs a core too
    generator = load_recorded(network, recorded or "portraits", str(root) if recorded else "", device)

    def ready() -> None:
        click.echo(escape_controls(f"latentopt studio: {address.url}"))
        click.echo(escape_controls(f"generator {generator.name}, results in {root}/; Ctrl-C ends it"), err=True)

    serve(Session(generator, root.resolve()), address, not no_open, ready)


def _recorded(root: Path) -> str:
    """The generator that the newest results in `root` were made with; "" where there are none."""
    from latentopt.api import newest_run
    from latentopt.errors import CheckpointError

    try:
        results, _ = newest_run(root)
    except CheckpointError:
        return ""
    return str(results[0].record["generator"].get("source", ""))
