"""latentopt train encoder: a pSp, e4e or ReStyle encoder for any generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.paths import UserPath
from latentopt.commands.train_loop import command_line, follow_training
from latentopt.commands.train_options import (
    folder_options,
    likeness_options,
    pace_options,
    pictures_option,
    validate_option,
)
from latentopt.files.outputs import check_outdir
from latentopt.training import ENCODER_KINDS

if TYPE_CHECKING:
    from latentopt.training.encoder import EncoderRecord


@click.command("encoder")
@click.option("--kind", required=True, type=click.Choice(ENCODER_KINDS), help="What to train.")
@shared.network("--generator", "network")
@pictures_option
@click.option("--backbone", default="small", show_default=True, type=click.Choice(["small", "ir-se-50", "resnet-34"]),
              help="Its trunk: a small one, or those of the papers.")  # fmt: skip
@click.option("--heads", type=click.Choice(["pyramid", "simple"]), help="By default pyramid, for ReStyle simple.")
@click.option("--size", type=int, help="Side of the images the encoder takes; by default 64 (small) or 256.")
@click.option(
    "--start",
    type=UserPath(),
    metavar="KIND|FILE",
    help="Begin with a trained encoder: its file, or a kind's name for the bundled one.",
)
@click.option("--steps", type=int, show_default="10000", help="Updates in all; schedules are shares of it.")
@click.option("--batch", type=int, show_default="8", help="Images a step, of all processes together.")
@click.option("--lr", type=float, show_default="1e-3", help="1e-4 in the papers, for their backbones.")
@click.option(
    "--decay", type=float, show_default="0.5", help="Share of the steps, at the end, over which the rate falls to 0."
)
@click.option(
    "--optimizer", type=click.Choice(["adam", "ranger"]), help="ranger: as in the papers; needs latentopt[train]."
)
@click.option("--l2-weight", type=float, show_default="1", help="Of the squared difference of pixels.")
@click.option("--perceptual-weight", type=float, show_default="0.8", help="Of the perceptual distance.")
@click.option("--similarity-weight", type=float, show_default="0.1", help="Of the similarity loss.")
@click.option("--delta-weight", type=float, show_default="e4e: 2e-4", help="Of delta regularisation.")
@click.option("--latent-weight", type=float, show_default="e4e: 0.1", help="Of the latent discriminator.")
@click.option("--latent-lr", type=float, show_default="lr / 5", help="Rate of the latent discriminator.")
@click.option(
    "--progressive/--no-progressive", default=None, show_default="e4e: on", help="Let offsets join row by row."
)
@click.option("--restyle-steps", type=int, show_default="ReStyle: 5", help="Steps a batch.")
@likeness_options
@pace_options
@validate_option
@folder_options
def encoder(
    kind: str,
    network: str,
    data: str,
    drawn: int,
    backbone: str,
    heads: str | None,
    size: int | None,
    start: str | None,
    similarity: Path | None,
    minutes: float | None,
    validate_every: int,
    outdir: Path,
    cache: Path,
    device: str,
    quiet: bool,
    **settings: Any,
) -> int:
    """Train an encoder for a generator, from nothing or from the last snapshot in the output folder.

    Losses, weights and schedules are the papers'. Writes encoder-KIND.safetensors (the moving average of the weights),
    encoder-KIND.png (held-out images and their reconstructions) and encoder-KIND.jsonl at every snapshot (each four
    minutes), when interrupted, and at the end. torchrun shares each batch among several processes.

    \b
    Example:
      latentopt train encoder --kind e4e
      latentopt train encoder --kind psp --network ffhq.pkl --data faces/ --backbone ir-se-50 --optimizer ranger
      torchrun --nproc-per-node 4 --no-python latentopt train encoder --kind e4e
    """
    check_outdir(outdir)

    from latentopt.checkpoints.networks import load_generator
    from latentopt.devices import choose_device
    from latentopt.training.encoder_settings import settings_for
    from latentopt.training.parallel import join_processes
    from latentopt.training.train_encoder import train_encoder

    training = settings_for(kind, **{key: value for key, value in settings.items() if value is not None})
    processes, chosen = join_processes(choose_device(device))
    try:
        work = train_encoder(
            outdir,
            load_generator(network, device=chosen),
            training,
            backbone=backbone,
            heads=heads,
            size=size,
            data=data,
            drawn=drawn,
            cache=cache,
            start=start,
            similarity=similarity,
            validate_every=validate_every,
            command=command_line(),
            processes=processes,
        )
        return follow_training(work, f"encoder-{kind}", _losses, minutes=minutes, quiet=quiet)
    finally:
        processes.leave()


def _losses(record: EncoderRecord) -> dict[str, object]:
    return {name: record[name] for name in ("l2", "perceptual", "stage")}
