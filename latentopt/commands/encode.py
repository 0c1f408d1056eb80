"""latentopt encode: find the latents of images by an encoder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.batches import interruptible, load_network, report
from latentopt.commands.invert import find_items, resolve_recipe
from latentopt.commands.terminal import escape_controls
from latentopt.encoders import KINDS
from latentopt.errors import ImageError, UsageError
from latentopt.recipe.recipe import Recipe

if TYPE_CHECKING:
    from latentopt.inverting.encoding import BatchEncoder
    from latentopt.inverting.items import Unread

COLUMNS = {"psnr": "psnr", "ssim": "ssim", "perceptual": "perceptual", "seconds": "seconds"}
STARTS = ("steps", "stage", "bootstrap", "bootstrap_network", "mix", "share", "force")


@click.command("encode", short_help="Find the latents of images by an encoder, without optimisation.")
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--encoder", default="e4e", show_default=True, help="psp, e4e, restyle-psp, restyle-e4e, or a file.")
@click.option("--network", help="Generator: a file, or a bundled one's name; by default the one in the encoder's file.")
@click.option("--steps", type=int, help="ReStyle: how often the code is corrected (default 5).")
@click.option("--stage", type=int, help="e4e: the last row with an offset of its own; 0: one code for all rows.")
@click.option(
    "--bootstrap", metavar="ENCODER", help="ReStyle: begin with this encoder's result (encoder bootstrapping)."
)
@click.option("--bootstrap-network", metavar="NETWORK", help="The bootstrap's generator, if it is another one.")
@click.option("--mix", metavar="ENCODER", help="Mix this encoder's codes in.")
@click.option("--share", type=click.FloatRange(0, 1), help="How much of them (default 0.5).")
@click.option("--keep-steps", is_flag=True, help="Keep every step: step-0.png, step-1.png, ..., steps.safetensors.")
@click.option("--heat-maps", is_flag=True, help="Show what each step changed: heat-map-1.png, ..., heat-maps.png.")
@click.option("--terms", help="What is measured, such as perceptual=1,l2=1.")
@click.option(
    "--outdir", default="out", show_default=True, type=click.Path(path_type=Path), help="Folder of the results."
)
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="Images at once.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--fit", default="crop", show_default=True, type=click.Choice(["crop", "pad", "stretch"]))
@click.option("--force", is_flag=True, help="Also take an encoder that was trained for another generator.")
@click.option("--overwrite", is_flag=True, help="Do finished images again.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    images: tuple[str, ...],
    encoder: str,
    network: str | None,
    keep_steps: bool,
    heat_maps: bool,
    terms: str | None,
    outdir: Path,
    batch: int,
    device: str,
    dtype: str,
    fit: str,
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Find the latents of IMAGES (files, folders, globs; the bundled samples when none is named) by an encoder.

    ENCODER is a file of latentopt train encoder or a released pSp, e4e or ReStyle .pt, or a kind: then the bundled encoder
    for the generator. Results are written as by latentopt invert and can be tuned; steps.csv tells what each step gained
    and changed. To go on by optimisation: latentopt invert --recipe hybrid-e4e, or --init e4e with any recipe.

    \b
    Examples:
      latentopt encode
      latentopt encode photos/ --encoder restyle-e4e --steps 10 --keep-steps --heat-maps
      latentopt encode face.png --encoder e4e_ffhq_encode.pt --outdir results
      latentopt encode photos/ --encoder psp --mix e4e --share 0.5
    """
    recipe = encode_recipe(encoder, terms, {key: options[key] for key in STARTS})
    from latentopt.files.outputs import check_outdir, locked, sweep

    check_outdir(outdir)
    with locked(outdir):
        from latentopt.encoders.changes import MeanChange
        from latentopt.encoders.files import holds_generator
        from latentopt.inverting.encoding import BatchEncoder
        from latentopt.registry import INITIALIZERS

        sweep(outdir)
        network = network or (encoder if holds_generator(encoder) else "portraits")
        generator = load_network(network, device, dtype, False)
        init = {key: value for key, value in recipe.stages[0].init.items() if key != "name"}
        encoding = INITIALIZERS.create("encoder", generator, **init).encoding
        for note in encoding.encoder.notes:
            click.echo(escape_controls(f"{encoder}: {note}"), err=True)
        items = find_items(images, generator, fit, "composite")
        for item in items if overwrite else ():
            (outdir / item.name / "run.json").unlink(missing_ok=True)
        reading = (("fit", fit), ("dtype", dtype), ("network", generator.name))
        gathered = MeanChange() if heat_maps else None
        batches = BatchEncoder(encoding, recipe, outdir, batch, keep_steps, gathered, reading)
        rows, histories = work(batches, items, quiet)
        write_steps(outdir / "steps.csv", histories)
        if gathered is not None and gathered.count:
            gathered.draw(outdir / "heat-maps.png")
        return report(rows, outdir, f"encoder {encoder}", COLUMNS)


def encode_recipe(encoder: str, terms: str | None, options: Mapping[str, Any]) -> Recipe:
    """What is done, as a recipe of no steps. Raises UsageError for options that do not go together."""
    if options["share"] is not None and options["mix"] is None:
        raise UsageError("--share needs --mix, the encoder whose codes are mixed in")
    if options["bootstrap_network"] is not None and options["bootstrap"] is None:
        raise UsageError("--bootstrap-network needs --bootstrap, the encoder that it draws for")
    unset = dict.fromkeys(("space", "clip", "steps", "lr", "init", "batch"))
    table = resolve_recipe("encode", [], **unset, terms=terms).table()
    source = {"kind": encoder} if encoder in KINDS else {"path": encoder}
    table["stages"][0]["init"] = {"name": "encoder", **source, **{k: v for k, v in options.items() if v is not None}}
    return Recipe.from_table(table)


def work(encoder: BatchEncoder, items: list[Unread], quiet: bool) -> tuple[list[dict], list[Sequence[Mapping]]]:
    """Do the work under a progress line: a row for the summary of each image, and the history of each finished one."""
    from latentopt.commands.progress import Progress
    from latentopt.inverting.events import Failed

    rows, histories, unreadable = [], [], 0
    with Progress(len(items), "encoding", unit="images", quiet=quiet) as progress, interruptible() as interrupted:
        for event in encoder.encode(items, interrupted):
            if isinstance(event, Failed):
                text = f"skipped: {event.reason}" if event.unreadable else f"failed: {event.source}: {event.reason}"
                if quiet:  # no progress, but errors
                    click.echo(text, err=True)
                progress.note(text)
                rows.append({"name": event.name, "status": "failed", "error": event.reason})
                unreadable += event.unreadable
                continue
            record = event.inversion.manifest
            row = {"name": event.inversion.name, "status": "ok", **record["metrics"]}
            rows.append(row | {"seconds": record["seconds"]["encoding"], "steps": record["steps"]})
            histories.append(event.inversion.history)
            progress.advance()
    if unreadable == len(items):
        raise ImageError(f"none of the {unreadable} pictures could be read")
    return rows, histories


def write_steps(path: Path, histories: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """steps.csv: for each step the mean over images of what was measured, and of what the step changed."""
    from latentopt.files.outputs import clear_write_errors
    from latentopt.files.storage import write_text

    if not histories:
        return
    columns = list(dict.fromkeys(key for record in histories[0] for key in record if key not in ("stage", "step")))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["step", "images", *columns])
    for step in range(max(map(len, histories))):
        records = [history[step] for history in histories if len(history) > step]
        means = [_mean([record[key] for record in records if record.get(key) is not None]) for key in columns]
        writer.writerow([step, len(records), *means])
    with clear_write_errors(path):
        write_text(path, stream.getvalue())


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.6g}" if values else ""
