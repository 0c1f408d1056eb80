"""latentopt invert: find the latents of images by optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import Films, load_network, low_memory_option, report, watched
from latentopt.commands.paths import UserPath
from latentopt.commands.preflight import Warnings, notes_told, picture_check, preflight_option
from latentopt.commands.scale_options import Hands, chosen_shard, shard_option, worker_options
from latentopt.errors import ImageError, UsageError
from latentopt.files.outputs import check_free
from latentopt.files.shards import shard_folder
from latentopt.files.text import one_line
from latentopt.recipe.entries import terms_of
from latentopt.recipe.placement import with_placement
from latentopt.recipe.recipe import Key, Recipe
from latentopt.recipe.settings import read_value
from latentopt.recipe.spaces import space_recipe, with_space
from latentopt.registry import REFINERS
from latentopt.watching.phases import tell

if TYPE_CHECKING:
    from latentopt.api import Aligner
    from latentopt.devices import Profile
    from latentopt.pictures.images import Alpha, Fit


EXACT_HELP = "One image at a time: no result depends on the others, even in its last bits. Twice the time on a CPU."


def resolve_recipe(recipe: str | None, settings: list[str], **options: Any) -> Recipe:
    """The recipe that the command line asks for: a named one (or the space's own), then the options, then --set."""
    space, clip = options["space"], options["clip"]
    if recipe is None:
        recipe = "ii2s" if space is None else space_recipe(space, held=clip is not None)
    found = Recipe.load(recipe)
    if space is not None:
        found = with_space(found, space, {"clip": clip})
    given: dict[Key, object] = {}
    if space is None and clip is not None:
        given["stages", 0, "optimize", 0, "clip"] = clip
    if options["lr"] is not None:
        given["stages", 0, "lr"] = options["lr"]
    if options["init"] is not None:
        given["stages", 0, "init"] = start_entry(options["init"])
    if options["batch"] is not None:
        given |= {("stages", i, "batch"): options["batch"] for i in range(len(found.stages))}
    found = found.in_every_stage(steps=options["steps"], terms=terms_of(options["terms"]))
    found = found.changed(given)
    if options["placement"]:
        found = with_placement(found, options["steps"])
    if options["refine"] is not None:
        found = found.refined(refine_entry(options["refine"]))
    return found.override(settings)


def start_entry(text: str) -> object:
    """A start's name, `file:PATH`, `encoder:PATH`, or a table such as {name = "best-of", n = 5}, as a recipe has it."""
    name, _, path = text.partition(":")
    return {"name": name, "path": path} if name in ("file", "encoder") and path else read_value(text)


def refine_entry(text: str) -> object:
    """A refiner's name, its file, or a table such as {name = "warpres", flow = "raft"}, as a recipe has it."""
    if text in REFINERS or text.startswith("{"):
        return read_value(text)
    return {"name": "file", "path": text}


@click.command("invert", short_help="Find the latents of images by optimisation.")
@click.argument("images", nargs=-1, type=UserPath())
@shared.network()
@click.option(
    "--recipe",
    type=UserPath(),
    metavar="NAME|FILE",
    help="Method: a recipe's name or a TOML file.  [default: ii2s, or the space's own]",
)
@click.option("--space", help="Latent space: w, w+, w++, s, z, z+, p-norm, p-norm+ (also written pnorm+).")
@click.option("--clip", type=float, help="Bound in P-norm+, in standard deviations.")
@shared.steps()
@shared.lr()
@shared.init()
@shared.placement()
@shared.refine()
@shared.terms()
@shared.recipe_settings()
@shared.outdir()
@shared.seed()
@shared.batch()
@click.option("--exact", is_flag=True, help=EXACT_HELP)
@shared.device()
@shared.dtype()
@low_memory_option
@click.option("--compile", "compiled", is_flag=True, help="Compile the generator with torch.compile.")
@shared.fit()
@shared.align(default="none", show_default=True)
@shared.points()
@shared.largest()
@shared.detector()
@click.option("--alpha", default="composite", show_default=True, type=click.Choice(["composite", "mask"]),
              help="What transparency means: white behind it, or parts that do not count.")  # fmt: skip
@preflight_option
@click.option("--save-video", is_flag=True, help="Keep how each image converged, as proj.webp.")
@click.option("--profile", "profiled", is_flag=True, help="Tell where the time went, and write it as profile.csv.")
@shard_option
@worker_options
@shared.overwrite()
@shared.dry_run()
@shared.quiet()
def command(
    images: tuple[str, ...],
    network: str,
    recipe: str | None,
    settings: tuple[str, ...],
    outdir: Path,
    seed: int,
    exact: bool,
    device: str,
    dtype: str,
    low_memory: bool,
    compiled: bool,
    fit: Fit,
    align: str,
    points: str | None,
    largest: bool,
    detector: str,
    alpha: Alpha,
    preflight: bool | None,
    save_video: bool,
    profiled: bool,
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
    """Find latents that make the generator draw IMAGES (files, folders, globs; the bundled samples when none is named).

    Every image gets a folder with target.png, proj.png, projected_w.npz, inputs.safetensors, recipe.toml,
    history.jsonl and run.json; the output folder a summary.csv, a grid.png and an index.html. A run that was stopped
    goes on when the same command is given again. A picture that looks misaligned, or unlike what the generator draws,
    is inverted all the same, with a warning. With --align faces, every face of a photograph is cut out and inverted;
    latentopt paste puts results and their edits back.

    \b
    Examples:
      latentopt invert --space pnorm+ --clip 2
      latentopt invert photos/ --network ffhq.pkl --recipe sg2 --outdir results
      latentopt invert face.png --recipe ii2s --set stages.0.lr=0.01
      latentopt invert face.png --network stylegan3-t-ffhq.pkl --recipe i2s --placement
      latentopt invert photos/ --recipe hybrid-e4e --refine warpres
      latentopt invert group.jpg --network ffhq.pkl --align faces
      latentopt invert photos/ --workers auto
      latentopt invert photos/ --shard 3/16
    """
    resolved = resolve_recipe(recipe, list(settings), **options)
    check_exact(exact, options["batch"])
    if dry_run:
        click.echo(resolved.dump(), nl=False)
        return 0
    shard, hands = chosen_shard(shard), Hands(workers, ray, retries, ledger)
    if hands.others and (save_video or profiled):
        raise UsageError("--save-video and --profile watch this process: leave them out, or --workers and --ray")
    outdir = shard_folder(outdir, shard)
    check_free(outdir)
    aligner = aligner_of(align, points, detector, largest)

    from latentopt.api import invert
    from latentopt.devices import Profile
    from latentopt.pictures.finding import find_images

    sources = images_of(images)
    count = len(find_images(sources, shard if aligner.idle else None))  # of faces the part is not known yet
    steps = sum(stage.steps + 1 for stage in resolved.stages)
    if not quiet:
        tell(f"{count} picture{'s' * (count != 1)}, recipe {resolved.name}, {steps} steps each, generator {network}")
    profile = Profile(on=profiled)
    with profile.part("networks and start"):
        here = hands.device(device)
        generator = load_network(network, here, dtype, compiled and not hands.others, low_memory)
    warnings = Warnings()
    check = picture_check(generator, count, steps, preflight, warnings)
    if hands.others and check is not None and count:
        _ = check.preflight  # once, and not by each of the others
    reading = {"fit": fit, "alpha": alpha, "dtype": dtype, "network": generator.name}
    call = partial(invert, generator, sources, resolved, seed=seed, exact=exact, fit=fit, alpha=alpha, align=aligner)
    rows = watched(
        partial(
            call,
            look=notes_told(check),
            out=outdir,
            overwrite=overwrite,
            options=reading,
            keep=False,
            profile=profile,
            shard=shard,
            engine=hands.engine(device, compiled),
        ),
        count,
        steps=steps,
        films=Films(outdir) if save_video else None,
        quiet=quiet,
    )
    warnings.report()
    if profiled:
        tell_profile(profile, outdir / "profile.csv")
    return report(rows, outdir, f"recipe {resolved.name}")


def aligner_of(align: str, points: str | None, detector: str, largest: bool) -> Aligner:
    """What the options say of aligning. Raises UsageError."""
    from latentopt.api import Aligner, given_points

    return Aligner(align, {} if points is None else given_points(points), detector, largest)


def check_exact(exact: bool, batch: int | None) -> None:
    """Raise UsageError for options that exclude one another."""
    if exact and batch not in (None, 1):
        raise UsageError(f"--exact works on one image at a time: leave --batch {batch} out")


def tell_profile(profile: Profile, path: Path) -> None:
    """Print where the time went, and write it as a table of part, seconds and share."""
    from latentopt.files.outputs import clear_write_errors
    from latentopt.files.storage import write_text

    rows = profile.table()
    for name, seconds, share in rows:
        click.echo(f"{name:<24}{seconds:>10.2f} s{100 * share:>7.1f} %")
    lines = ["part,seconds,share", *(f"{name},{seconds:.6f},{share:.6f}" for name, seconds, share in rows)]
    with clear_write_errors(path):
        write_text(path, "\n".join(lines) + "\n")


def check_pictures(images: Sequence[str]) -> None:
    """Raise ImageError, before anything is loaded, where all that is named are files of another kind."""
    from latentopt.files.kinds import DAMAGED, kind_of, refusal
    from latentopt.pictures.decoding import WANTED

    named = [Path(image).expanduser() for image in images]
    if all(path.is_file() and kind_of(path).name not in ("picture", *DAMAGED) for path in named):
        raise ImageError(refusal(named[0], WANTED))


def images_of(images: Sequence[str]) -> list[str]:
    """The images that are named, or the folder of the bundled samples."""
    from latentopt.files.resources import PACKAGE
    from latentopt.pictures.finding import passed_over

    if images:
        check_pictures(images)
        if (others := passed_over(images)) != "":
            click.echo(one_line(others), err=True)
        return list(images)
    click.echo("no image named: taking the bundled sample pictures", err=True)
    return [str(PACKAGE / "bundled" / "samples")]
