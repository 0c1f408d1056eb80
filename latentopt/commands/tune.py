"""latentopt tune: change the generator's weights so that it draws inverted images better."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network, load_recorded, low_memory_option, report, watched
from latentopt.commands.invert import EXACT_HELP, check_exact, images_of
from latentopt.commands.paths import UserPath
from latentopt.commands.preflight import notes_told
from latentopt.commands.scale_options import Hands, chosen_shard, shard_option, worker_options
from latentopt.commands.tune_recipes import inversion_of, method_recipe, tuning_of
from latentopt.errors import UsageError
from latentopt.files.outputs import check_free
from latentopt.files.shards import shard_folder
from latentopt.files.text import escape_controls
from latentopt.recipe.recipe import Recipe

if TYPE_CHECKING:
    from latentopt.protocols import Generator
    from latentopt.results.earlier import EarlierResult

COLUMNS = {
    "psnr_before": "psnr before",
    "psnr": "after",
    "perceptual_before": "perc. before",
    "perceptual": "after",
    "frechet": "corruption",
    "seconds": "seconds",
    "tuned": "parameters",
    "peak_mb": "peak MB",
}


@click.command("tune", short_help="Tune the generator's weights to inverted images.")
@click.argument("sources", nargs=-1, metavar="[RUN | IMAGES]", type=UserPath())
@click.option(
    "--method",
    default="wrangan",
    show_default=True,
    type=UserPath(),
    metavar="NAME|FILE",
    help="pti, weights, wrangan, ..., or a TOML file.",
)
@shared.network(default=None, show_default=f"{shared.LIKE_RUN}, for IMAGES portraits")
@shared.init()
@shared.placement()
@shared.steps()
@shared.lr()
@click.option("--layers", help="Weights to tune: all, convs, convs:N (the last N), or globs joined by commas.")
@click.option("--rank", type=int, help="Rank of each weight's change (lowrank).")
@click.option("--sigma", type=UserPath(), help="Sigma file of the epsilon space; found or estimated by default.")
@click.option("--shared", is_flag=True, help="One change of the weights for all images (of one subject).")
@shared.terms()
@shared.recipe_settings()
@shared.outdir()
@shared.to()
@click.option(
    "--corruption", type=int, help="Pictures to measure it with; by default a few per cent of the work; 0: not."
)
@shared.seed()
@shared.batch()
@click.option("--exact", is_flag=True, help=EXACT_HELP)
@shared.device()
@shared.dtype()
@low_memory_option
@shard_option
@worker_options
@shared.overwrite()
@shared.dry_run()
@shared.quiet()
def command(
    sources: tuple[str, ...],
    method: str,
    network: str | None,
    init: str | None,
    outdir: Path,
    to: Path | None,
    corruption: int | None,
    seed: int,
    exact: bool,
    device: str,
    dtype: str,
    low_memory: bool,
    shard: tuple[int, int] | None,
    workers: int | None,
    ray: str | None,
    ledger: str | None,
    retries: int,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Tune the generator's weights to each image of RUN, the folder of an inversion (the newest in --outdir by
    default).

    IMAGES (files, folders, globs) are inverted first, as the method's recipe says, from --init and with --placement;
    --terms are those of both, the other options of the recipe those of the tuning alone. Results go to
    RUN/tuned-METHOD. Every tuned image gets a folder as from latentopt invert, and in it delta.safetensors: what was
    added to the weights. latentopt convert bakes it into a generator, latentopt sample draws with it.

    \b
    Examples:
      latentopt tune --method wrangan
      latentopt tune out/anna --method pti --steps 200
      latentopt tune out --method pti --shard 3/16
      latentopt tune photos/ --method lowrank --rank 2 --network ffhq.pkl
    """
    from latentopt.inverting.preparing import prepare
    from latentopt.inverting.tuning import common_recipe

    found = method_recipe(method)
    check_exact(exact, options["batch"])
    if exact and options["shared"]:
        raise UsageError("--shared makes one change for all images together: leave --exact out")
    if corruption and corruption < 4:
        raise UsageError(f"--corruption {corruption}: needs 4 pictures or more, or 0 to leave it out")
    shard, hands = chosen_shard(shard), Hands(workers, ray, retries, ledger)
    if options["shared"] and (shard is not None or hands.others):
        raise UsageError("--shared makes one change for all images together: leave --shard, --workers and --ray out")
    results, run = (None, outdir / Path(method).stem) if _are_images(sources) else _earlier(sources, outdir, shard)
    if results is None:
        inversion = inversion_of(found, init, options)
    elif init is not None or options["placement"]:
        given = "--init" if init is not None else "--placement"
        raise UsageError(f"{given} goes with IMAGES: the results of a run are where the tuning starts")
    resolved = tuning_of(found, inversion if results is None else common_recipe(results), options)
    if dry_run:
        click.echo(resolved.dump(), nl=False)
        return 0
    to = shard_folder(to or run / f"tuned-{Path(method).stem}", shard)
    run = run if results is not None else shard_folder(run, shard)
    for folder in [to] if results is not None else [run, to]:
        check_free(folder)
    if results is None:
        images = images_of(sources)
        generator = load_network(network or "portraits", hands.device(device), dtype, low_memory=low_memory)
        prepare(resolved, generator)
        spread = {"shard": shard, "engine": hands.engine(device)}
        results = _invert(images, generator, inversion, run, seed, exact, dtype, quiet, spread)
    else:
        recorded = str(results[0].record["generator"].get("source", "portraits"))
        generator = load_recorded(network, recorded, str(run), hands.device(device), dtype, low_memory)
    if options["shared"]:
        resolved = resolved.sharing(options["batch"] or len(results))
    return _tune(
        results,
        resolved,
        generator,
        to,
        seed,
        exact,
        dtype,
        corruption,
        overwrite,
        quiet,
        {"shard": shard, "engine": hands.engine(device)},
    )


def _are_images(sources: tuple[str, ...]) -> bool:
    """Whether SOURCES are pictures: a single folder with a finished inversion in it is a run."""
    if len(sources) != 1 or not Path(sources[0]).is_dir():
        return bool(sources)
    return next(Path(sources[0]).rglob("run.json"), None) is None


def _earlier(sources: tuple[str, ...], outdir: Path, shard: tuple[int, int] | None) -> tuple[list[EarlierResult], Path]:
    """The results to go on from, and the folder of their run."""
    from latentopt.results.earlier import find_results, newest_run

    if sources:
        return find_results(Path(sources[0]), shard), Path(sources[0])
    results, run = newest_run(outdir, shard)
    click.echo(escape_controls(f"tuning the newest run: {run} ({len(results)} images)"), err=True)
    return results, run


def _invert(
    images: list[str],
    generator: Generator,
    recipe: Recipe,
    run: Path,
    seed: int,
    exact: bool,
    dtype: str,
    quiet: bool,
    spread: dict[str, Any],
) -> list[EarlierResult]:
    from latentopt.api import invert
    from latentopt.pictures.finding import find_images
    from latentopt.results.earlier import find_results

    call = partial(
        invert, generator, images, recipe, seed=seed, exact=exact, look=notes_told(None), out=run, keep=False
    )
    steps = sum(stage.steps + 1 for stage in recipe.stages)
    rows = watched(
        partial(call, options=_reading(generator, dtype), **spread),
        len(find_images(images, spread["shard"])),
        steps=steps,
        quiet=quiet,
    )
    report(rows, run, f"recipe {recipe.name}")
    names = {row["name"] for row in rows if row["status"] == "ok"}
    return [result for result in find_results(run) if result.name in names]


def _tune(
    results: list[EarlierResult],
    recipe: Recipe,
    generator: Generator,
    to: Path,
    seed: int,
    exact: bool,
    dtype: str,
    corruption: int | None,
    overwrite: bool,
    quiet: bool,
    spread: dict[str, Any],
) -> int:
    from latentopt.api import tune
    from latentopt.evaluation.corruption import fitting_pictures

    if corruption is None:
        corruption = fitting_pictures(recipe)
        if not corruption:
            click.echo("so short a tuning is not measured for corruption: --corruption 100 does it", err=True)
    call = partial(
        tune, generator, results, recipe, as_is=True, seed=seed, exact=exact, corruption=corruption, keep=False
    )
    rows = watched(
        partial(call, out=to, overwrite=overwrite, options=_reading(generator, dtype), **spread),
        len(results),
        steps=sum(stage.steps + 1 for stage in recipe.stages) + corruption,
        beside=corruption,
        verb="tuning",
        unit="steps and pictures" if corruption else "image steps",
        quiet=quiet,
    )
    return report(rows, to, _title(recipe, generator), COLUMNS)


def _title(recipe: Recipe, generator: Generator) -> str:
    """What the table is of: the method and, where it goes by one, the sigma."""
    from latentopt.statistics.at_hand import first_at_hand
    from latentopt.statistics.sigma import SIGMA

    found = first_at_hand(SIGMA, generator) if recipe.looks_for("sigma") else None
    if found is None:
        return f"tuned by {recipe.name}"
    sigma, path = found
    return f"tuned by {recipe.name}, sigma {sigma.origin} ({path.parent.name}/{path.name})"


def _reading(generator: Generator, dtype: str) -> dict[str, object]:
    return {"dtype": dtype, "network": generator.name}
