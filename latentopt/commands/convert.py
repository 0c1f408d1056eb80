"""`latentopt convert IN OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands.delta_options import checked_strength, delta_options
from latentopt.commands.paths import UserPath
from latentopt.errors import UsageError
from latentopt.files.outputs import check_output
from latentopt.files.text import escape_controls, one_line

if TYPE_CHECKING:
    from latentopt.protocols import Generator


@click.command("convert")
@click.argument("source", metavar="IN", type=UserPath())
@click.argument("target", metavar="OUT", type=UserPath(dir_okay=False, path_type=Path))
@click.option("--discriminator", is_flag=True, help="Convert the discriminator of the file (to .safetensors only).")
@delta_options
@click.option("--revert", is_flag=True, help="Take the deltas back out of IN, into which they were baked.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
def command(
    source: str,
    target: Path,
    discriminator: bool,
    deltas: tuple[Path, ...],
    strength: float | None,
    force_delta: bool,
    revert: bool,
    force: bool,
) -> None:
    """Write a generator in another format: OUT ends in .safetensors (latentopt's) or .pt (rosinality's).

    IN is any file that `latentopt info` knows as a generator, or a bundled name. Reading runs nothing from the file, so
    a converted copy can be passed on without asking anyone to trust a pickle.

    With --delta the tuned weights are baked in. The card of a .safetensors file lists them, and --revert takes exactly
    those out again, which gives back IN within rounding.

    \b
    Example:
      latentopt convert ffhq.pkl ffhq.safetensors
      latentopt convert portraits portraits.pt
      latentopt convert portraits ada.safetensors --delta out/ada --strength 0.8
      latentopt convert ada.safetensors plain.safetensors --delta out/ada --strength 0.8 --revert
    """
    _check_target(target, discriminator, force)
    chosen = checked_strength(deltas, strength, force_delta)
    _check_revert(deltas, discriminator, force_delta, revert)

    from latentopt.checkpoints import networks as checkpoints

    if discriminator:
        checkpoints.save_discriminator(checkpoints.load_discriminator(source), target)
        notes: tuple[str, ...] = ()
    else:
        generator = checkpoints.load_generator(source)
        if deltas:
            generator = _with_deltas(generator, deltas, chosen, force_delta, revert)
        notes = generator.notes
        if target.suffix == ".pt":
            notes += checkpoints.save_rosinality(generator, target)
            if deltas and not revert:
                notes += ("this layout has no card to list the deltas: --revert works on a .safetensors file only",)
        else:
            checkpoints.save_generator(generator, target)
    for note in notes:
        click.echo(escape_controls(f"note: {note}"), err=True)
    click.echo(one_line(f"{target} ({target.stat().st_size / 1e6:.1f} MB)"))


def _with_deltas(
    generator: Generator, paths: tuple[Path, ...], strength: float, force_delta: bool, revert: bool
) -> Generator:
    from latentopt.checkpoints.delta import load_deltas

    if revert:
        return load_deltas(paths, None, strength).unbake(generator)
    return load_deltas(paths, generator, strength, force_delta).bake(generator)


def _check_revert(deltas: tuple[Path, ...], discriminator: bool, force_delta: bool, revert: bool) -> None:
    if revert and not deltas:
        raise UsageError("--revert needs the delta to take out; name it with --delta FILE")
    if revert and force_delta:
        raise UsageError("--revert goes by what the card of IN lists; leave --force-delta out")
    if discriminator and deltas:
        raise UsageError("a delta changes a generator; leave --discriminator out")


def _check_target(target: Path, discriminator: bool, force: bool) -> None:
    if target.suffix not in (".safetensors", ".pt"):
        raise UsageError(f"{target}: the name must end in .safetensors (latentopt's format) or .pt (rosinality's)")
    if discriminator and target.suffix == ".pt":
        raise UsageError(f"{target}: a discriminator is written as .safetensors only")
    if target.exists() and not force:
        raise UsageError(f"{target} exists; choose another name, or pass --force to overwrite it")
    check_output(target)
