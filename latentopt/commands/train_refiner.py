"""latentopt train refiner and flow: StyleRes, WarpRes, and the network that teaches WarpRes its flow."""

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
from latentopt.refiners import FORMS, KINDS, READERS
from latentopt.registry import FLOWS

if TYPE_CHECKING:
    from latentopt.training.flow import FlowRecord
    from latentopt.training.refiner import RefinerRecord


@click.command("refiner")
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What to train.")
@shared.network("--generator", "network")
@shared.encoder()
@pictures_option
@click.option("--form", type=click.Choice(FORMS), help="plain: as in the paper; gated: as in StyleRes's released code.")
@click.option("--tap", type=int, help="Height in pixels of the features; by default 64, or half a small picture's.")
@click.option("--width", default=64, show_default=True, type=click.IntRange(1, 1024), help="Channels within.")
@click.option("--reader", default="stem", show_default=True, type=click.Choice(READERS), help="What reads the picture.")
@click.option(
    "--start",
    type=UserPath(),
    metavar="KIND|FILE",
    help="Begin with a trained refiner: its file, or a kind's name for the bundled one.",
)
@click.option("--steps", type=int, show_default="10000", help="Updates in all; the rate is halved at each quarter.")
@click.option("--batch", type=int, show_default="8", help="Images a step, of all processes together.")
@click.option("--lr", type=float, show_default="5e-4", help="1e-4 in the paper, for its widths.")
@click.option("--l2-weight", type=float, show_default="1", help="Of the squared difference of pixels.")
@click.option("--perceptual-weight", type=float, show_default="1", help="Of the perceptual distance.")
@click.option("--similarity-weight", type=float, show_default="0.1", help="Of the similarity loss.")
@click.option("--cycle-perceptual", type=float, show_default="0.1", help="The perceptual distance after edit and back.")
@click.option("--cycle-similarity", type=float, show_default="0.01", help="The similarity loss after edit and back.")
@click.option("--adversarial-weight", type=float, show_default="0.01", help="Of the discriminator's loss; 0: none.")
@click.option(
    "--residual-weight", "feature_weight", type=float, show_default="0.01", help="Of the size of what is added."
)
@click.option("--flow-weight", type=float, show_default="0.1", help="Of the difference from the teacher's flow.")
@click.option("--cycle", type=float, show_default="0.5", help="Share of the steps that edit, there and back.")
@click.option("--discriminator", type=UserPath(), metavar="NAME|FILE", help="By default the generator's own.")
@click.option("--teacher", default="warps", show_default=True, type=click.Choice([*FLOWS, "none"]),
              help="WarpRes: what the flow is learned from; none: from the other losses alone.")  # fmt: skip
@click.option("--teacher-file", type=UserPath(), metavar="FILE", help="Its weights, where they are not found.")
@likeness_options
@pace_options
@validate_option
@click.option("--force", is_flag=True, help="Take an encoder that was trained for another generator.")
@folder_options
def refiner(
    kind: str,
    network: str,
    encoder: str,
    data: str,
    drawn: int,
    tap: int | None,
    width: int,
    reader: str,
    start: str | None,
    discriminator: str | None,
    teacher: str,
    teacher_file: str | None,
    similarity: Path | None,
    minutes: float | None,
    validate_every: int,
    force: bool,
    outdir: Path,
    cache: Path,
    device: str,
    quiet: bool,
    **settings: Any,
) -> int:
    """Train a refiner for a generator and an encoder, from nothing or from the last snapshot in the output folder.

    Writes refiner-KIND.safetensors (the moving average of the weights), refiner-KIND.png (held-out images, what the
    encoder makes of them, that refined, and both edited) and refiner-KIND.jsonl at every snapshot (each four minutes),
    when interrupted, and at the end. torchrun shares each batch among several processes.

    \b
    Example:
      latentopt train refiner --kind styleres
      latentopt train flow
      latentopt train refiner --kind warpres --teacher-file train/flow.safetensors
      latentopt train refiner --kind warpres --network ffhq.pkl --encoder e4e_ffhq.pt --data faces/ --teacher raft
    """
    check_outdir(outdir)

    from latentopt.api import RefinerTraining, train_refiner
    from latentopt.checkpoints.networks import load_generator
    from latentopt.devices import choose_device
    from latentopt.training.parallel import join_processes

    given = {key: value for key, value in settings.items() if value is not None}
    processes, chosen = join_processes(choose_device(device))
    try:
        work = train_refiner(
            outdir,
            load_generator(network, device=chosen),
            RefinerTraining(kind=kind, **given),
            encoder=encoder,
            tap=tap,
            width=width,
            reader=reader,
            data=data,
            drawn=drawn,
            cache=cache,
            discriminator=discriminator,
            teacher=teacher,
            teacher_file=teacher_file,
            similarity=similarity,
            validate_every=validate_every,
            start=start,
            force=force,
            command=command_line(),
            processes=processes,
        )
        return follow_training(work, f"refiner-{kind}", _refiner_losses, minutes=minutes, quiet=quiet)
    finally:
        processes.leave()


def _refiner_losses(record: RefinerRecord) -> dict[str, object]:
    return {name: record[name] for name in ("l2", "perceptual", "flow") if name in record}


@click.command("flow")
@shared.network("--generator", "network")
@pictures_option
@click.option("--steps", type=int, show_default="3000", help="Updates in all.")
@click.option("--batch", type=int, show_default="16", help="Pairs a step.")
@click.option("--lr", type=float, show_default="1e-3", help="It falls to 0 as a half cosine over the second half.")
@click.option("--longer-side", "size", default=64, show_default=True, type=click.IntRange(32, 512), help="Of pictures.")
@pace_options
@folder_options
def flow(
    network: str,
    data: str,
    drawn: int,
    size: int,
    minutes: float | None,
    outdir: Path,
    cache: Path,
    device: str,
    quiet: bool,
    **settings: Any,
) -> int:
    """Train the network that finds the flow between two pictures, on pictures that were warped by known flows.

    Pairs are pictures of --data and samples of the generator, warped by random affine maps and thin-plate splines (of
    samples, the other one has other fine styles); for portraits also two drawings of one head, turned and moved. No
    weights of others are needed. Writes flow.safetensors, which latentopt train refiner --kind warpres learns from.

    \b
    Example:
      latentopt train flow
      latentopt train flow --network ffhq.pkl --data faces/ --longer-side 256
    """
    check_outdir(outdir)

    from latentopt.api import FlowTraining, train_flow
    from latentopt.checkpoints.networks import load_generator
    from latentopt.devices import choose_device

    given = {key: value for key, value in settings.items() if value is not None}
    chosen = choose_device(device)
    generator = load_generator(network, device=chosen)
    training = train_flow(
        outdir, generator, FlowTraining(size=size, **given), data=data, drawn=drawn, cache=cache, command=command_line()
    )
    return follow_training(training, "flow", _flow_losses, minutes=minutes, quiet=quiet)


def _flow_losses(record: FlowRecord) -> dict[str, object]:
    return {"error": record["error"]}
