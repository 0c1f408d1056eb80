"""latentopt restore: pictures of which only a measurement is known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network, low_memory_option, report, watched
from latentopt.commands.invert import EXACT_HELP, check_exact, images_of, start_entry
from latentopt.commands.paths import UserPath
from latentopt.commands.scale_options import chosen_shard, shard_option
from latentopt.errors import UsageError
from latentopt.files.outputs import check_free
from latentopt.files.shards import shard_folder
from latentopt.recipe.entries import terms_of
from latentopt.recipe.recipe import Key, Recipe
from latentopt.watching.phases import tell

if TYPE_CHECKING:
    from latentopt.pictures.images import Fit
    from latentopt.restoring.measuring import Exact

COLUMNS = {"psnr": "psnr of measurement", "perceptual": "perceptual", "pyramid": "pyramid", "seconds": "seconds"}
TRUE_COLUMNS = {"true_psnr": "psnr to truth", "true_perceptual": "perceptual to truth"}


def resolve_recipe(
    recipe: str,
    operator: str | None,
    settings: list[str],
    steps: int | None,
    init: str | None,
    terms: str | None,
    batch: int | None,
) -> Recipe:
    """The recipe that the command line asks for, its stages measuring by the operator."""
    found = Recipe.load(recipe)
    found = found if operator is None else found.measuring(operator)
    given: dict[Key, object] = {} if init is None else {("stages", 0, "init"): start_entry(init)}
    if batch is not None:
        given |= {("stages", i, "batch"): batch for i in range(len(found.stages))}
    found = found.in_every_stage(steps=steps, terms=terms_of(terms)).override(settings, given)
    if not all(stage.operators for stage in found.stages):
        raise UsageError("restoration needs an operator: --operator down:8 (latentopt invert is without one)")
    return found


@click.command("restore", short_help="Restore pictures of which only a measurement is known.")
@click.argument("images", nargs=-1, type=UserPath())
@shared.network()
@click.option(
    "--operator",
    metavar="OPERATOR,...",
    help="What was done to the pictures: mask:FILE, down:N, blur:SIGMA|FILE, gray, jpeg:Q, noise:KIND:AMOUNT, "
    "crop:SIZE, rows:N, columns:N, or package.module:function, which imports and runs your own code.",
)
@click.option("--recipe", type=UserPath(), default="robust", show_default=True, metavar="NAME|FILE", help="Method.")
@click.option("--simulate", is_flag=True, help="IMAGES are good: degrade them first, and compare results with them.")
@click.option("--solutions", default=1, show_default=True, type=click.IntRange(1, 100), help="From different starts.")
@click.option(
    "--fit",
    default="exact",
    show_default=True,
    type=click.Choice(["exact", "crop", "pad", "stretch"]),
    help="Take pictures of a measurement's very size, or make them fit.",
)
@shared.steps()
@shared.init()
@shared.terms()
@shared.recipe_settings()
@shared.outdir(default="out/restored")
@shared.seed()
@shared.batch()
@click.option("--exact", is_flag=True, help=EXACT_HELP)
@shared.device()
@shared.dtype()
@low_memory_option
@shard_option
@shared.overwrite()
@shared.dry_run()
@shared.quiet()
def command(
    images: tuple[str, ...],
    network: str,
    operator: str | None,
    recipe: str,
    simulate: bool,
    solutions: int,
    fit: Fit | Exact,
    steps: int | None,
    init: str | None,
    terms: str | None,
    settings: tuple[str, ...],
    outdir: Path,
    seed: int,
    batch: int | None,
    exact: bool,
    device: str,
    dtype: str,
    low_memory: bool,
    shard: tuple[int, int] | None,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Find pictures that the generator draws and that look like IMAGES after what the operator does to them.

    IMAGES are the measurements: files, folders, globs (without any, the bundled samples are degraded and restored).
    Several operators, with commas between them, are done one after the other. Every image gets the folder of an
    inversion, in which proj.png is the restored picture, and measurement.png, remeasured.png (what the operator makes
    of the restored picture), residual.png (their difference) and restoration.png (all side by side).

    \b
    Examples:
      latentopt restore small/ --operator down:8
      latentopt restore holes/ --operator mask
      latentopt restore photos/ --operator jpeg:12 --recipe brgm
      latentopt restore photos/ --operator mask:mask.png,noise:gaussian:20
      latentopt restore photos/ --operator down:4,jpeg:30 --simulate --solutions 4
      latentopt restore cats/ --operator down:16 --network cats.pkl --terms l2=1
    """
    resolved = resolve_recipe(recipe, operator, list(settings), steps, init, terms, batch)
    check_exact(exact, batch)
    if dry_run:
        click.echo(resolved.dump(), nl=False)
        return 0
    shard = chosen_shard(shard)
    outdir = shard_folder(outdir, shard)
    check_free(outdir)

    from latentopt.api import restore
    from latentopt.pictures.finding import find_images

    simulate = simulate or not images
    sources = images_of(images)
    count, passes = len(find_images(sources, shard)), sum(stage.steps + 1 for stage in resolved.stages)
    if not quiet:
        tell(f"{count} picture{'s' * (count != 1)}, recipe {resolved.name}, {passes} steps each, generator {network}")
    generator = load_network(network, device, dtype, low_memory=low_memory)
    call = partial(
        restore,
        generator,
        sources,
        None,
        resolved,
        simulate=simulate,
        solutions=solutions,
        seed=seed,
        fit=fit,
        exact=exact,
        out=outdir,
        overwrite=overwrite,
        options={"dtype": dtype, "network": generator.name} | ({} if fit == "exact" else {"fit": fit}),
        keep=False,
        shard=shard,
    )
    rows = watched(call, count * solutions, steps=passes, verb="restoring", quiet=quiet)
    columns = COLUMNS | TRUE_COLUMNS if simulate else COLUMNS
    shown = {name: text for name, text in columns.items() if rows.columns.get(name)}
    return report(rows, outdir, f"recipe {resolved.name}", shown)
