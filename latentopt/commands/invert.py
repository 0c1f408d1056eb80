"""latentopt invert: find the latents of images by optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.batches import Films, load_network, report, watched
from latentopt.commands.measuring import measure_metrics
from latentopt.commands.preflight import picture_check
from latentopt.errors import UsageError
from latentopt.files.text import one_line
from latentopt.recipe.recipe import Key, Recipe, read_value
from latentopt.recipe.spaces import space_recipe, with_space

if TYPE_CHECKING:
    from latentopt.devices import Profile
    from latentopt.inverting.items import Look
    from latentopt.pictures.images import Alpha, Fit, ImageSource, TargetImage


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
    given |= {("stages", 0, key): options[key] for key in ("steps", "lr") if options[key] is not None}
    if options["init"] is not None:
        given["stages", 0, "init"] = start_entry(options["init"])
    if options["batch"] is not None:
        given |= {("stages", i, "batch"): options["batch"] for i in range(len(found.stages))}
    if options["terms"] is not None:
        given["stages", 0, "terms"] = terms_of(options["terms"])
    return found.override(settings, given)


def start_entry(text: str) -> object:
    """A start's name, `file:PATH`, `encoder:PATH`, or a table such as {name = "best-of", n = 5}, as a recipe has it."""
    name, _, path = text.partition(":")
    return {"name": name, "path": path} if name in ("file", "encoder") and path else read_value(text)


def terms_of(text: str) -> list[dict[str, object]]:
    """`perceptual=1,l2=0.5` as a recipe has it."""
    entries: list[dict[str, object]] = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            entries.append({"name": name.strip(), "weight": float(weight or 1)})
        except ValueError:
            raise UsageError(f"--terms {text}: write it as perceptual=1,l2=0.5") from None
    return entries


@click.command("invert", short_help="Find the latents of images by optimisation.")
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--network", default="portraits", show_default=True, help="Generator: a file, or a bundled one's name.")
@click.option("--recipe", help="Method: a recipe's name or a TOML file (default ii2s, or the space's own).")
@click.option("--space", help="Latent space: w, w+, z, p-norm, p-norm+ (also written pnorm+).")
@click.option("--clip", type=float, help="Bound in P-norm+, in standard deviations.")
@click.option("--steps", "--num-steps", type=int, help="Optimisation steps of the first stage.")
@click.option("--lr", type=float, help="Learning rate of the first stage.")
@click.option("--init", help="Start: mean, p-mean, linear, sample, best-of, file:PATH, e4e (psp, ...), encoder:PATH.")
@click.option("--terms", help="Loss terms with weights, such as perceptual=1,l2=1.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any recipe entry, as stages.0.lr=0.02.")
@click.option(
    "--outdir", default="out", show_default=True, type=click.Path(path_type=Path), help="Folder of the results."
)
@click.option("--seed", default=0, show_default=True, type=int, help="Random seed.")
@click.option("--batch", type=int, help="Images at once (only speed and memory depend on it).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--compile", "compiled", is_flag=True, help="Compile the generator with torch.compile.")
@click.option("--fit", default="crop", show_default=True, type=click.Choice(["crop", "pad", "stretch"]))
@click.option("--alpha", default="composite", show_default=True, type=click.Choice(["composite", "mask"]))
@click.option("--no-preflight", is_flag=True, help="Do not look first whether pictures suit the generator.")
@click.option("--save-video", is_flag=True, help="Keep how each image converged, as proj.webp.")
@click.option("--profile", "profiled", is_flag=True, help="Tell where the time went, and write it as profile.csv.")
@click.option("--overwrite", is_flag=True, help="Do finished images again.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    images: tuple[str, ...],
    network: str,
    recipe: str | None,
    settings: tuple[str, ...],
    outdir: Path,
    seed: int,
    device: str,
    dtype: str,
    compiled: bool,
    fit: Fit,
    alpha: Alpha,
    no_preflight: bool,
    save_video: bool,
    profiled: bool,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Find latents that make the generator draw IMAGES (files, folders, globs; the bundled samples when none is named).

    Every image gets a folder with target.png, proj.png, projected_w.npz, inputs.safetensors, recipe.toml,
    history.jsonl and run.json; the output folder a summary.csv, a grid.png and an index.html. A run that was stopped
    goes on when the same command is given again. A picture that looks misaligned, or unlike what the generator draws,
    is inverted all the same, with a warning.

    \b
    Examples:
      latentopt invert --space pnorm+ --clip 2
      latentopt invert photos/ --network ffhq.pkl --recipe sg2 --outdir results
      latentopt invert face.png --recipe ii2s --set stages.0.lr=0.01
    """
    resolved = resolve_recipe(recipe, list(settings), **options)
    if dry_run:
        click.echo(resolved.dump(), nl=False)
        return 0
    from latentopt.api import invert
    from latentopt.devices import Profile
    from latentopt.files.outputs import check_free
    from latentopt.pictures.images import find_images

    check_free(outdir)
    profile = Profile(on=profiled)
    with profile.part("networks and start"):
        generator = load_network(network, device, dtype, compiled)
    sources = images_of(images)
    measure_metrics(resolved, generator, quiet)
    check = None if no_preflight else picture_check(generator, quiet)
    reading = {"fit": fit, "alpha": alpha, "dtype": dtype, "network": generator.name}
    call = partial(invert, generator, sources, resolved, seed=seed, fit=fit, alpha=alpha, look=notes_told(check))
    rows = watched(
        partial(call, out=outdir, overwrite=overwrite, options=reading, keep=False, profile=profile),
        len(find_images(sources)),
        steps=sum(stage.steps + 1 for stage in resolved.stages),
        films=Films(outdir) if save_video else None,
        quiet=quiet,
    )
    if profiled:
        tell_profile(profile, outdir / "profile.csv")
    return report(rows, outdir, f"recipe {resolved.name}")


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


def images_of(images: Sequence[str]) -> list[str]:
    """The images that are named, or the folder of the bundled samples."""
    from latentopt.files.resources import PACKAGE

    if images:
        return list(images)
    click.echo("no image named: inverting the bundled sample pictures", err=True)
    return [str(PACKAGE / "bundled" / "samples")]


def notes_told(check: Look | None) -> Look:
    """Says of each picture that is read what was done to it and, where there is a `check`, what that finds."""

    def look(source: ImageSource, target: TargetImage, done: bool) -> TargetImage:
        checked = target if check is None else check(source, target, done)
        for note in checked.notes:
            click.echo(one_line(f"{source.path}: {note}"), err=True)
        return checked

    return look
