"""`latentopt convert IN OUT`."""

from __future__ import annotations

from pathlib import Path

import click

from latentopt.errors import UsageError
from latentopt.terminal import escape_controls


@click.command("convert")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--discriminator", is_flag=True, help="Convert the discriminator of the file (to .safetensors only).")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
def command(source: str, target: Path, discriminator: bool, force: bool) -> None:
    """Write a generator in another format: OUT ends in .safetensors (latentopt's) or .pt (rosinality's).

    IN is any file that `latentopt info` knows as a generator, or a bundled name. Reading runs nothing from the file, so
    a converted copy can be passed on without asking anyone to trust a pickle.

    \b
    Example:
      latentopt convert ffhq.pkl ffhq.safetensors
      latentopt convert portraits portraits.pt
    """
    _check_target(target, discriminator, force)

    from latentopt.generators import checkpoints

    if discriminator:
        checkpoints.save_discriminator(checkpoints.load_discriminator(source), target)
        notes: tuple[str, ...] = ()
    else:
        generator = checkpoints.load_generator(source)
        notes = generator.notes
        if target.suffix == ".pt":
            notes += checkpoints.save_rosinality(generator, target)
        else:
            checkpoints.save_generator(generator, target)
    for note in notes:
        click.echo(escape_controls(f"note: {note}"), err=True)
    click.echo(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")


def _check_target(target: Path, discriminator: bool, force: bool) -> None:
    if target.suffix not in (".safetensors", ".pt"):
        raise UsageError(f"{target}: the name must end in .safetensors (latentopt's format) or .pt (rosinality's)")
    if discriminator and target.suffix == ".pt":
        raise UsageError(f"{target}: a discriminator is written as .safetensors only")
    if target.exists() and not force:
        raise UsageError(f"{target} exists; choose another name, or pass --force to overwrite it")
