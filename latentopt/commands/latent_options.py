"""What `edit`, `mix` and `interpolate` share: which latents are meant, and their generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_recorded
from latentopt.errors import UsageError
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.editing.latents import Source
    from latentopt.protocols import Generator


def latent_options(command: Callable) -> Callable:
    """--network, --outdir, --to and --device."""
    shown = shared.network(default=None, show_default=shared.LIKE_RUN)
    for option in (shared.device(), shared.to(), shared.outdir(), shown):
        command = option(command)
    return command


def find_latents(
    paths: Sequence[Path],
    outdir: Path,
    network: str | None,
    device: str,
    check: Callable[[Path], object] = lambda root: None,
) -> tuple[Generator, list[Source], Path]:
    """The generator of the latents that `paths` name (the newest run in `outdir` by default), a source for each image,
    and the folder that they lie in, which `check` is called with before a network is loaded. Raises CheckpointError at
    once for another generator's latents.
    """
    from latentopt.api import find_sources, newest_run, open_sources, result_sources

    if paths:
        found = [source for path in paths for source in find_sources(path)]
        root = Path(paths[0]) if Path(paths[0]).is_dir() else Path(paths[0]).parent
    else:
        results, root = newest_run(outdir)
        click.echo(escape_controls(f"the newest run: {root} ({len(results)} images)"), err=True)
        found = result_sources(results)
    check(root)
    known = next((source for source in found if source.generator.get("source")), None)
    recorded = ("portraits", "") if known is None else (str(known.generator["source"]), str(known.path))
    generator = load_recorded(network, *recorded, device)
    return generator, open_sources(found, generator, lambda note: click.echo(escape_controls(note), err=True)), root


def at_least(latents: list, count: int, what: str) -> None:
    if len(latents) < count:
        raise UsageError(f"{what} needs {count} images or more, not {len(latents)}; name more results")
