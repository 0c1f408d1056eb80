"""latentopt encode: find the latents of images by an encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_network, report, watched
from latentopt.commands.invert import aligner_of, images_of, refine_entry
from latentopt.commands.paths import UserPath
from latentopt.commands.preflight import notes_told
from latentopt.commands.scale_options import Hands, chosen_shard, shard_option, worker_options
from latentopt.errors import UsageError
from latentopt.files.outputs import check_free
from latentopt.files.shards import shard_folder
from latentopt.files.text import escape_controls
from latentopt.recipe.entries import terms_of

if TYPE_CHECKING:
    from latentopt.pictures.images import Fit

COLUMNS = {"psnr": "psnr", "ssim": "ssim", "perceptual": "perceptual", "seconds": "seconds"}


@click.command("encode", short_help="Find the latents of images by an encoder, without optimisation.")
@click.argument("images", nargs=-1, type=UserPath())
@shared.encoder()
@shared.network(default=None, show_default="the one in the encoder's file, or portraits")
@click.option("--steps", type=int, help="ReStyle: how often the code is corrected; by default as in its training.")
@click.option("--stage", type=int, help="e4e: the last row with an offset of its own; 0: one code for all rows.")
@click.option(
    "--bootstrap",
    type=UserPath(),
    metavar="ENCODER",
    help="ReStyle: begin with this encoder's result (encoder bootstrapping).",
)
@click.option(
    "--bootstrap-network", type=UserPath(), metavar="NETWORK", help="The bootstrap's generator, if it is another one."
)
@click.option("--mix", type=UserPath(), metavar="ENCODER", help="Mix this encoder's codes in.")
@click.option("--share", type=click.FloatRange(0, 1), help="How much of them (default 0.5).")
@click.option("--keep-steps", is_flag=True, help="Keep every step: step-0.png, step-1.png, ..., steps.safetensors.")
@click.option("--heat-maps", is_flag=True, help="Show what each step changed: heat-map-1.png, ..., heat-maps.png.")
@shared.refine()
@shared.terms()
@shared.recipe_settings()
@shared.outdir()
@shared.batch(default=8, show_default=True)
@shared.device()
@shared.dtype()
@shared.fit()
@shared.align(default="none", show_default=True)
@shared.points()
@shared.largest()
@shared.detector()
@click.option("--force", is_flag=True, help="Take an encoder that was trained for another generator.")
@shard_option
@worker_options
@shared.overwrite()
@shared.dry_run()
@shared.quiet()
def command(
    images: tuple[str, ...],
    encoder: str,
    network: str | None,
    keep_steps: bool,
    heat_maps: bool,
    refine: str | None,
    terms: str | None,
    settings: tuple[str, ...],
    outdir: Path,
    batch: int,
    device: str,
    dtype: str,
    fit: Fit,
    align: str,
    points: str | None,
    largest: bool,
    detector: str,
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
    """Find the latents of IMAGES (files, folders, globs; the bundled samples when none is named) by an encoder.

    ENCODER is a file of latentopt train encoder or a released pSp, e4e or ReStyle .pt, or a kind: then the bundled
    encoder for the generator. Results are written as by latentopt invert and can be tuned; steps.csv tells what each
    step gained and changed. With --refine, what the codes lack is added to the generator's features, and fitted anew to
    each edit by latentopt edit, mix, interpolate and evaluate. To go on by optimisation: latentopt invert --recipe
    hybrid-e4e, or --init e4e with any recipe.

    \b
    Examples:
      latentopt encode
      latentopt encode photos/ --encoder restyle-e4e --steps 10 --keep-steps --heat-maps
      latentopt encode face.png --encoder e4e_ffhq_encode.pt --outdir results
      latentopt encode photos/ --encoder psp --mix e4e --share 0.5
      latentopt encode photos/ --refine warpres
      latentopt encode group.jpg --align faces
      latentopt encode photos/ --shard 3/16
    """
    from latentopt.api import encode, encoding_recipe
    from latentopt.encoders.files import holds_generator
    from latentopt.pictures.finding import find_images

    recipe = encoding_recipe(
        encoder, terms_of(terms), options, settings, None if refine is None else refine_entry(refine)
    )
    if batch < 1:
        raise UsageError(f"--batch {batch}: at least 1")
    if dry_run:
        click.echo(recipe.dump(), nl=False)
        return 0
    shard, hands = chosen_shard(shard), Hands(workers, ray, retries, ledger)
    outdir = shard_folder(outdir, shard)
    check_free(outdir)
    aligner = aligner_of(align, points, detector, largest)
    network = network or (encoder if holds_generator(encoder) else "portraits")
    generator = load_network(network, hands.device(device), dtype, False)
    sources = images_of(images)
    call = partial(encode, generator, sources, recipe, fit=fit, look=notes_told(None), batch=batch, align=aligner)
    told = partial(call, on_note=lambda note: click.echo(escape_controls(f"{encoder}: {note}"), err=True))
    kept = {"keep_steps": keep_steps, "heat_maps": heat_maps, "overwrite": overwrite, "keep": False}
    reading = {"fit": fit, "dtype": dtype, "network": generator.name}
    rows = watched(
        partial(told, out=outdir, options=reading, shard=shard, engine=hands.engine(device), **kept),
        len(find_images(sources, shard if aligner.idle else None)),
        verb="encoding",
        unit="images",
        quiet=quiet,
    )
    return report(rows, outdir, f"encoder {encoder}", COLUMNS)
