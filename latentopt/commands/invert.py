"""latentopt invert: find the latents of images by optimisation."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.errors import ImageError, InversionFailed, UsageError
from latentopt.recipe import Recipe, with_space
from latentopt.registry import PARAMETERIZATIONS
from latentopt.terminal import escape_controls

if TYPE_CHECKING:
    from latentopt.generators.stylegan2 import StyleGAN2
    from latentopt.inverter import Inverter, Unread

SPACE_RECIPES = {"w": "i2s", "w+": "i2s", "z": "ii2s-pnorm", "p-norm": "ii2s-pnorm", "p-norm+": "ii2s-pnorm"}
VIDEO_FRAMES, VIDEO_HEIGHT = 60, 256


def resolve_recipe(recipe: str | None, settings: list[str], **options: Any) -> Recipe:
    """The recipe that the command line asks for: a named one (or the space's own), then the options, then --set."""
    space, clip = options["space"], options["clip"]
    if recipe is None:
        name = PARAMETERIZATIONS.resolve(space) if space is not None else None
        recipe = (
            "ii2s" if name is None or (name in ("w", "w+") and clip is not None) else SPACE_RECIPES.get(name, "i2s")
        )
    found = Recipe.load(recipe)
    if space is not None:
        found = with_space(found, space, {"clip": clip})
    elif clip is not None:
        settings = [f"stages.0.optimize.0.clip={clip}", *settings]
    given = [f"stages.0.{key}={options[key]}" for key in ("steps", "lr") if options[key] is not None]
    if options["init"] is not None:
        given.append(f"stages.0.init={_init(options['init'])}")
    if options["batch"] is not None:
        given += [f"stages.{i}.batch={options['batch']}" for i in range(len(found.stages))]
    if options["terms"] is not None:
        given.append(f"stages.0.terms={_terms(options['terms'])}")
    return found.override([*given, *settings])


def _init(text: str) -> str:
    """A start's name, or `file:PATH`, as TOML."""
    name, _, path = text.partition(":")
    return f"{{name = 'file', path = {json.dumps(path, ensure_ascii=False)}}}" if name == "file" and path else text


def _terms(text: str) -> str:
    """`perceptual=1,l2=0.5` as a TOML list."""
    entries = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            entries.append(f'{{name = "{name.strip()}", weight = {float(weight or 1)}}}')
        except ValueError:
            raise UsageError(f"--terms {text}: write it as perceptual=1,l2=0.5") from None
    return f"[{', '.join(entries)}]"


@click.command("invert", short_help="Find the latents of images by optimisation.")
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--network", default="portraits", show_default=True, help="Generator: a file, or a bundled one's name.")
@click.option("--recipe", help="Method: a recipe's name or a TOML file (default ii2s, or the space's own).")
@click.option("--space", help="Latent space: w, w+, z, p-norm, p-norm+ (also written pnorm+).")
@click.option("--clip", type=float, help="Bound in P-norm+, in standard deviations.")
@click.option("--steps", "--num-steps", type=int, help="Optimisation steps of the first stage.")
@click.option("--lr", type=float, help="Learning rate of the first stage.")
@click.option("--init", help="Start of the first stage: mean, p-mean, sample, best-of, file:PATH.")
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
@click.option("--save-video", is_flag=True, help="Keep how each image converged, as proj.webp.")
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
    fit: str,
    alpha: str,
    save_video: bool,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Find latents that make the generator draw IMAGES (files, folders, globs; the bundled samples when none is named).

    Every image gets a folder with target.png, proj.png, projected_w.npz, inputs.safetensors, recipe.toml, history.jsonl and
    run.json; the output folder a summary.csv, a grid.png and an index.html. A run that was stopped goes on when the same
    command is given again.

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
    from latentopt.outputs import check_outdir, locked, sweep

    check_outdir(outdir)
    with locked(outdir):
        from latentopt.inverter import Inverter

        sweep(outdir)
        generator = _load(network, device, dtype, compiled)
        items = _items(images, generator, fit, alpha)
        for item in items if overwrite else ():
            (outdir / item.name / "run.json").unlink(missing_ok=True)
        reading = (("fit", fit), ("alpha", alpha), ("dtype", dtype), ("network", generator.name))
        inverter = Inverter(generator, resolved, seed, outdir, reading)
        rows = _invert(inverter, items, outdir, save_video, quiet)
        return _report(rows, outdir, resolved.name)


def _load(network: str, device: str, dtype: str, compiled: bool) -> StyleGAN2:
    import torch

    from latentopt.devices import choose_device
    from latentopt.generators.checkpoints import load_generator

    generator = load_generator(network, device=choose_device(device))
    for note in generator.notes:
        click.echo(escape_controls(f"{network}: {note}"), err=True)
    if dtype != "float32":
        generator.set_precision(getattr(torch, dtype)).set_memory_format(torch.channels_last)
    if compiled:
        generator.synthesis.compile()
    return generator


def _items(images: tuple[str, ...], generator: StyleGAN2, fit: Any, alpha: Any) -> list[Unread]:
    """The images, to be read when their turn comes."""
    from latentopt.images import TargetImage, find_images, read_image
    from latentopt.inverter import Unread
    from latentopt.resources import PACKAGE

    if not images:
        images = (str(PACKAGE / "bundled" / "samples"),)
        click.echo("no image named: inverting the bundled sample pictures", err=True)

    def read(path: Path) -> TargetImage:
        target = read_image(path, generator.resolution, fit=fit, alpha=alpha)
        for note in target.notes:
            click.echo(escape_controls(f"{path}: {note}"), err=True)
        return target

    return [Unread(source.key, str(source.path), partial(read, source.path)) for source in find_images(images)]


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM) once finishes the step and saves; a second Ctrl-C stops at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        os.write(2, b"stopping after this step; once more stops now\n")  # a buffered stream may be in use just now
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _invert(inverter: Inverter, items: list[Unread], outdir: Path, save_video: bool, quiet: bool) -> list[dict]:
    from latentopt.inverter import Failed, Finished, Progressed
    from latentopt.progress import Progress

    total = len(items) * sum(stage.steps + 1 for stage in inverter.recipe.stages)
    rows: list[dict] = []
    unreadable = 0
    frames: dict[str, list] = {}
    with Progress(total, "inverting", unit="image steps", quiet=quiet) as progress, _interruptible() as interrupted:
        for event in inverter.invert(items, interrupted):
            if isinstance(event, Progressed):
                mean = sum(event.step.best_loss) / len(event.step.best_loss)
                progress.advance(len(event.step.rows), step=event.step.step, images=len(event.step.rows), best=mean)
                if save_video:
                    _keep_frames(frames, event)
            elif isinstance(event, Failed):
                text = f"skipped: {event.reason}" if event.unreadable else f"failed: {event.source}: {event.reason}"
                if quiet:  # no progress, but errors
                    click.echo(text, err=True)
                progress.note(text)
                rows.append({"name": event.name, "status": "failed", "error": event.reason})
                frames.pop(event.name, None)
                unreadable += event.unreadable
            elif isinstance(event, Finished):
                if event.again:
                    film = "; no film of it: --overwrite makes it again" if save_video else ""
                    progress.note(f"{event.inversion.name}: done already{film}")
                rows.append(_row(event.inversion))
                if save_video and not event.again:
                    _write_video(frames.pop(event.inversion.name, []), event.inversion, outdir)
    if unreadable == len(items):
        raise ImageError(f"none of the {unreadable} pictures could be read")
    return rows


def _row(inversion: Any) -> dict:
    record = inversion.manifest
    row = {"name": inversion.name, "status": "ok", **record["metrics"]}
    row |= {
        "seconds": record["seconds"]["optimisation"],
        "steps": record["steps"],
        "stop_reason": record["stop_reason"],
    }
    return row


def _keep_frames(frames: dict[str, list], event: Any) -> None:
    """About VIDEO_FRAMES pictures of each image on its way."""
    stage, rows = event.run.recipe.stages[event.stage], event.run.rows()
    if not rows or event.step.step % max(1, stage.steps // VIDEO_FRAMES):
        return
    names, images = event.run.current_images()
    for name, image, target in zip(names, images, event.run.target[rows], strict=True):
        frames.setdefault(name, []).append(_side_by_side(target, image))


def _side_by_side(target: Any, image: Any) -> Any:
    """Target left, result right, as NVIDIA's projector shows them: [3,H,W] twice -> uint8 [h,2w,3], h <= VIDEO_HEIGHT."""
    import torch
    from torch.nn.functional import interpolate

    from latentopt.images import to_uint8

    pair = torch.cat([target.cpu(), image.cpu().nan_to_num()], dim=2)
    if pair.shape[1] > VIDEO_HEIGHT:
        width = round(pair.shape[2] * VIDEO_HEIGHT / pair.shape[1])
        pair = interpolate(pair[None], (VIDEO_HEIGHT, width), mode="area")[0]
    return to_uint8(pair)


def _write_video(frames: list, inversion: Any, outdir: Path) -> None:
    from latentopt.video import save_video

    last = _side_by_side(inversion.target, inversion.image)
    save_video([*frames, *[last] * 10], outdir / inversion.name / "proj.webp")


def _report(rows: list[dict], outdir: Path, recipe: str) -> int:
    """Print the table, write the summary, and say by the exit code whether all is well."""
    from rich.console import Console
    from rich.table import Table

    from latentopt.summary import write_summary

    columns = ("psnr", "ssim", "perceptual", "radius", "seconds")
    table = Table("image", *columns, title=f"recipe {recipe}", title_justify="left")
    for row in rows:
        figures = [f"{row[name]:.4g}" if isinstance(row.get(name), float) else "-" for name in columns]
        table.add_row(row["name"], *(figures if row["status"] == "ok" else ["failed"] + ["-"] * (len(columns) - 1)))
    Console(width=None if Console().is_terminal else 100).print(table)
    write_summary(outdir, rows)
    failed = [row["name"] for row in rows if row["status"] != "ok"]
    click.echo(f"{len(rows) - len(failed)} of {len(rows)} images in {outdir}/ (summary.csv, grid.png, index.html)")
    if not failed:
        return 0
    click.echo(f"failed: {', '.join(failed[:10])}{' ...' if len(failed) > 10 else ''}", err=True)
    return InversionFailed.exit_code
