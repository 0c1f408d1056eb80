"""What `edit`, `mix` and `interpolate` share: which latents are meant, and their generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.batches import load_network
from latentopt.errors import UsageError
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from latentopt.editing.latents import Latent, Source
    from latentopt.protocols import Generator


def latent_options(command: Callable) -> Callable:
    """--network, --outdir, --to and --device."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option("--to", type=click.Path(path_type=Path), help="Folder of what is written."),
        click.option(
            "--outdir",
            default="out",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Where the newest run is looked for.",
        ),
        click.option("--network", help="Generator; by default the one that the latents were made with."),
    ):
        command = option(command)
    return command


def find_latents(paths: Sequence[Path], outdir: Path) -> tuple[list[Source], Path]:
    """The sources that `paths` name (the newest run in `outdir` by default), and the folder that they lie in."""
    from latentopt.api import distinct, find_sources, newest_run, result_sources

    if paths:
        found = [source for path in paths for source in find_sources(path)]
        first = Path(paths[0])
        return distinct(found), first if first.is_dir() else first.parent
    results, root = newest_run(outdir)
    click.echo(escape_controls(f"the newest run: {root} ({len(results)} images)"), err=True)
    return distinct(result_sources(results)), root


def load_latents(sources: Sequence[Source], network: str | None, device: str) -> tuple[Generator, Iterator[Latent]]:
    """Their generator, and the latents one after the other. Raises CheckpointError at once for another generator's."""
    from latentopt.editing.latents import check_source, read_latent

    generator = load_network(
        network or str(sources[0].generator.get("source") or "portraits"), device, "float32", False
    )
    for source in sources:
        check_source(source, generator)
    return generator, (read_latent(source, generator) for source in sources)


def at_least(latents: list, count: int, what: str) -> None:
    if len(latents) < count:
        raise UsageError(f"{what} needs {count} images or more, not {len(latents)}; name more results")
