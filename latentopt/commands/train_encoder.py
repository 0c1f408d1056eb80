"""latentopt train encoder: a pSp, e4e or ReStyle encoder for any generator."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.train_options import folder_options
from latentopt.errors import UsageError

if TYPE_CHECKING:
    from latentopt.encoders.config import EncoderConfig
    from latentopt.generators.stylegan2 import StyleGAN2
    from latentopt.training.encoder import EncoderTrainer
    from latentopt.training.encoder_data import TrainingData

KEPT_EVERY = 240.0  # seconds


@click.command("encoder")
@click.option("--kind", required=True, type=click.Choice(["psp", "e4e", "restyle-psp", "restyle-e4e"]))
@click.option("--network", "--generator", "network", default="portraits", show_default=True, help="As for invert.")
@click.option(
    "--data",
    default="portraits",
    show_default=True,
    help="portraits (drawn), samples (the generator's own), or a folder.",
)
@click.option("--drawn", default=60_000, show_default=True, help="How many portraits to draw and keep.")
@click.option("--backbone", default="small", show_default=True, type=click.Choice(["small", "ir-se-50", "resnet-34"]))
@click.option("--heads", type=click.Choice(["pyramid", "simple"]), help="By default pyramid, for ReStyle simple.")
@click.option("--size", type=int, help="Side of the images the encoder takes; by default 64 (small) or 256.")
@click.option("--start", help="Begin with a trained encoder: its file, or a kind's name for the bundled one.")
@click.option("--steps", type=int, show_default="10000", help="Updates in all; schedules are shares of it.")
@click.option("--batch", type=int, show_default="8", help="Images a step, of all processes together.")
@click.option("--lr", type=float, show_default="1e-3", help="1e-4 in the papers, for their backbones.")
@click.option(
    "--decay", type=float, show_default="0.5", help="Share of the steps, at the end, over which the rate falls to 0."
)
@click.option(
    "--optimizer", type=click.Choice(["adam", "ranger"]), help="ranger: as in the papers; needs latentopt[train]."
)
@click.option("--l2-weight", type=float, show_default="1")
@click.option("--perceptual-weight", type=float, show_default="0.8")
@click.option("--similarity-weight", type=float, show_default="0.1")
@click.option("--delta-weight", type=float, show_default="e4e: 2e-4", help="Of delta regularisation.")
@click.option("--latent-weight", type=float, show_default="e4e: 0.1", help="Of the latent discriminator.")
@click.option("--latent-lr", type=float, show_default="lr / 5", help="Rate of the latent discriminator.")
@click.option(
    "--progressive/--no-progressive", default=None, show_default="e4e: on", help="Let offsets join row by row."
)
@click.option("--restyle-steps", type=int, show_default="ReStyle: 5", help="Steps a batch.")
@click.option("--perceptual", "perceptual_net", type=click.Choice(["auto", "bundled", "lpips-vgg", "lpips-alex"]))
@click.option(
    "--similarity", type=click.Path(path_type=Path), help="Weights of MoCo or ResNet-50, or a perceptual network."
)
@click.option("--precision", type=click.Choice(["bfloat16", "float32"]))
@click.option("--seed", type=int)
@click.option("--minutes", type=float, help="Stop after this long; the same command goes on.")
@click.option("--validate-every", default=500, show_default=True, type=click.IntRange(min=1), help="Steps.")
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
      latentopt train encoder --kind psp --network ffhq.pkl --data faces/ --backbone ir-se-50 --lr 1e-4 --optimizer ranger
      torchrun --nproc-per-node 4 --no-python latentopt train encoder --kind e4e
    """
    from latentopt.checkpoints.networks import load_stylegan2
    from latentopt.devices import choose_device
    from latentopt.encoders.files import load_encoder
    from latentopt.files.outputs import check_outdir
    from latentopt.training.encoder import EncoderTrainer
    from latentopt.training.encoder_data import training_data
    from latentopt.training.encoder_settings import settings_for
    from latentopt.training.feature_nets import load_feature_net
    from latentopt.training.parallel import join_processes

    check_outdir(outdir)
    given = {key: value for key, value in settings.items() if value is not None}
    training = settings_for(kind, **given, similarity_net="perceptual" if similarity is None else similarity.name)
    processes, chosen = join_processes(choose_device(device))
    try:
        generator = load_stylegan2(network, device=chosen)
        training.check(generator, processes.count)
        config = configured(generator, kind, backbone, heads, size)
        feature_net = None if similarity is None else load_feature_net(similarity).to(chosen)
        if not processes.first:
            processes.wait()  # until the first has drawn or read the pictures
        found = training_data(data, drawn, cache, generator, config.image_size, training.seed)
        if processes.first:
            processes.wait()
            for reason in found.skipped:
                click.echo(f"skipped: {reason}", err=True)
        trainer = EncoderTrainer(training, config, generator, found.stream, processes, feature_net)
        described = found.described | ({} if start is None else {"start": Path(start).name})
        if start is not None:
            trainer.start_from(load_encoder(start, generator, force=True))
        return follow(trainer, outdir, replace(found, described=described), minutes, validate_every, quiet)
    finally:
        processes.leave()


def configured(generator: StyleGAN2, kind: str, backbone: str, heads: str | None, size: int | None) -> EncoderConfig:
    """The architecture. Images no larger than the generator's are asked for. Raises UsageError for odd wishes."""
    from latentopt.encoders.config import EncoderConfig

    changes: dict[str, object] = {} if heads is None else {"heads": heads}
    height, width = generator.resolution
    largest = max(height, width)
    side = min(size or (64 if backbone == "small" else 256), largest)
    changes["image_size"] = (height * side // largest, width * side // largest)
    try:
        return EncoderConfig.for_generator(generator, kind, backbone, **changes)
    except ValueError as error:
        raise UsageError(f"--kind {kind} --backbone {backbone}: {error}") from error


def follow(
    trainer: EncoderTrainer, outdir: Path, data: TrainingData, minutes: float | None, validate_every: int, quiet: bool
) -> int:
    """Train until done (exit code 0), the time is up (0), or interrupted (130)."""
    from latentopt.commands.progress import Progress
    from latentopt.commands.train_loop import interruptions
    from latentopt.training.encoder_files import export, reconstruction_sheet, validate

    name, processes, settings = f"encoder-{trainer.settings.kind}", trainer.processes, trainer.settings
    snapshot, weights = outdir / f"{name}.snapshot.pt", outdir / f"{name}.safetensors"
    card = {"name": name, **data.described, "command": " ".join(["latentopt", *sys.argv[1:]])}
    if snapshot.exists():
        trainer.load(snapshot, data.described)
        if processes.first:
            click.echo(f"going on from step {trainer.step:,}", err=True)
    asked, ends = interruptions(), float("inf") if minutes is None else time.monotonic() + 60 * minutes

    def keep() -> None:
        trainer.save(snapshot, data.described)
        export(trainer, weights, card, data.held_out)
        reconstruction_sheet(trainer, data.held_out, outdir / f"{name}.png")

    kept = time.monotonic()
    with (
        (outdir / f"{name}.jsonl").open("a", encoding="utf-8") as log,
        Progress(settings.steps, name, unit="step", done=trainer.step, quiet=quiet or not processes.first) as progress,
    ):
        for record in trainer.train():
            progress.advance(1, l2=record["l2"], perceptual=record["perceptual"], stage=record["stage"])
            done = record["step"] == settings.steps
            if processes.first:
                if record["step"] % validate_every == 0 or done:
                    record |= {"held_out": validate(trainer, data.held_out)}
                if "held_out" in record or record["step"] % 50 == 0:
                    log.write(json.dumps(record) + "\n")
                    log.flush()
            stop = processes.agree(bool(asked) or time.monotonic() > ends, trainer.device)
            if processes.first and (stop or done or time.monotonic() - kept > KEPT_EVERY):
                keep()
                kept = time.monotonic()
            if stop:
                return 130 if asked else 0
    return 0
