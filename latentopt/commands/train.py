"""latentopt train: the generator and the networks of a domain, each resumable by giving the same command again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.errors import UsageError

if TYPE_CHECKING:
    from latentopt.training.generator import GeneratorTrainer
    from latentopt.training.streams import ArrayStream

outdir_option = click.option(
    "--outdir",
    default="train",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of snapshots and weights.",
)
cache_option = click.option(
    "--cache",
    default="train/data",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of training pictures.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress.")


@click.group("train", short_help="Train the bundled kinds of models.")
def command() -> None:
    """Train a generator, or the networks of the portraits domain.

    \b
    Example:
      latentopt train generator --images 20000 --outdir train
    """


@command.command("generator")
@click.option("--data", default="portraits", show_default=True, help="portraits (drawn by latentopt), or a folder.")
@click.option("--drawn", default=60_000, show_default=True, help="How many portraits to draw and keep.")
@click.option("--images", default=200_000, show_default=True, help="Real images to show in all.")
@click.option("--resolution", default=64, show_default=True, help="Side of the images, a power of 2.")
@click.option("--channel-base", type=int, help="Channels at r x r are min(channel-base / r, channel-max).")
@click.option("--channel-max", type=int)
@click.option("--w-dim", type=int, help="Dimension of z and w.")
@click.option("--mapping-layers", type=int)
@click.option("--batch", type=int, help="Images a step.")
@click.option("--lr", type=float)
@click.option("--r1-gamma", type=float, help="Weight of the R1 penalty.")
@click.option("--path-weight", type=float, help="Weight of path-length regularisation; 0 leaves it out.")
@click.option("--noise-from", type=int, help="Images after which noise inputs join.")
@click.option("--precision", type=click.Choice(["bfloat16", "float16", "float32"]))
@click.option("--seed", type=int)
@click.option("--start", help="Begin with a trained generator and discriminator: portraits, or a folder that has both.")
@click.option("--minutes", type=float, help="Stop after this long; the same command goes on.")
@click.option("--name", default="generator", show_default=True, help="Name stored in the file.")
@outdir_option
@cache_option
@device_option
@quiet_option
def generator(
    data: str,
    drawn: int,
    start: str | None,
    minutes: float | None,
    name: str,
    outdir: Path,
    cache: Path,
    device: str,
    quiet: bool,
    resolution: int,
    **settings: Any,
) -> int:
    """Train a StyleGAN2 generator and discriminator, from nothing or from the last snapshot in the output folder.

    Writes generator.safetensors (the moving average of the weights), discriminator.safetensors, samples.png and log.jsonl,
    at every snapshot (each four minutes), when interrupted, and at the end.

    \b
    Example:
      latentopt train generator --data portraits --images 200000
      latentopt train generator --data pictures/ --resolution 128 --device cuda
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise UsageError(f"--resolution {resolution}: must be a power of 2 of at least 8")
    from latentopt.devices import choose_device
    from latentopt.outputs import check_outdir
    from latentopt.training.generator import GeneratorTrainer, GeneratorTraining

    check_outdir(outdir)
    given = {key: value for key, value in settings.items() if value is not None}
    training = GeneratorTraining(resolution=resolution, **given)
    described = {"data": "portraits", "drawn": drawn} if data == "portraits" else {"data": f"folder {Path(data).name}"}
    card = {"name": name, **described}
    trainer = GeneratorTrainer(training, _stream(data, drawn, cache, resolution), choose_device(device))
    if (outdir / "snapshot.pt").exists():
        _check_data(outdir / "generator.safetensors", described)
        trainer.load(outdir / "snapshot.pt")
        click.echo(f"going on from {trainer.images_seen:,} images", err=True)
    elif start is not None:
        _start_from(trainer, start)
        card["start"] = start if start == "portraits" else Path(start).name
    return _train(trainer, outdir, name, card | {"command": _command_line()}, minutes, quiet)


def _start_from(trainer: GeneratorTrainer, start: str) -> None:
    from latentopt.generators.checkpoints import load_discriminator, load_generator

    folder = Path(start)
    generator, discriminator = (
        (folder / f"{kind}.safetensors" if folder.is_dir() else start) for kind in ("generator", "discriminator")
    )
    trainer.start_from(load_generator(generator), load_discriminator(discriminator))


def _check_data(weights: Path, described: dict) -> None:
    """Refuse to go on with other data than the earlier part of the training had."""
    from latentopt.storage import load_tensors

    if not weights.exists():
        return
    card = json.loads(load_tensors(weights)[1].get("card", "{}"))
    before = {key: card.get(key) for key in ("data", "drawn") if key in card}
    if before != described:
        raise UsageError(f"{weights}: was trained on {before}, not on {described}; use another --outdir")


def _command_line() -> str:
    """The command as typed, program and options."""
    import sys

    return " ".join(["latentopt", *sys.argv[1:]])


def _stream(data: str, drawn: int, cache: Path, resolution: int) -> ArrayStream:
    from latentopt.training.streams import ArrayStream, portrait_stream

    if data == "portraits":
        return portrait_stream(cache, drawn, resolution)
    from latentopt.data.folders import folder_images

    images, skipped = folder_images(Path(data), cache, resolution)
    for reason in skipped:
        click.echo(f"skipped: {reason}", err=True)
    return ArrayStream(images)


def _train(
    trainer: GeneratorTrainer,
    outdir: Path,
    name: str,
    card: dict,
    minutes: float | None,
    quiet: bool,
    every: float = 240.0,
) -> int:
    """Train until done (exit code 0), the time is up (0), or interrupted (130)."""
    from latentopt.progress import Progress
    from latentopt.training.export import export, sample_sheet

    def keep() -> None:
        trainer.save(outdir / "snapshot.pt")
        export(trainer, outdir, name, card)
        sample_sheet(trainer, outdir / "samples.png")

    asked, ends = _interruptions(), float("inf") if minutes is None else time.monotonic() + 60 * minutes

    def stop() -> bool:
        return bool(asked) or time.monotonic() > ends

    settings = trainer.settings
    kept = time.monotonic()
    with (
        (outdir / "log.jsonl").open("a", encoding="utf-8") as log,
        Progress(settings.images, "training", unit="image", done=trainer.images_seen, quiet=quiet) as progress,
    ):
        for record in trainer.train():
            progress.advance(settings.batch, d_loss=record.d_loss, g_loss=record.g_loss)
            if record.step % 100 == 0:
                log.write(json.dumps(asdict(record)) + "\n")
                log.flush()
            ending = stop()
            if ending or time.monotonic() - kept > every:
                keep()
                kept = time.monotonic()
            if ending:
                return 130 if asked else 0
    keep()
    return 0


def _interruptions() -> list[int]:
    """Filled by Ctrl-C or SIGTERM, after which the step is finished and kept; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked


@command.command("perceptual")
@click.option("--steps", default=3000, show_default=True)
@click.option("--images", default=60_000, show_default=True, help="Training portraits.")
@outdir_option
@cache_option
@device_option
@quiet_option
def perceptual(steps: int, images: int, outdir: Path, cache: Path, device: str, quiet: bool) -> int:
    """Train the small network whose features are the embedded perceptual loss.

    \b
    Example:
      latentopt train perceptual --outdir train
    """
    from latentopt.devices import choose_device
    from latentopt.training.attributes import train_perceptual

    records = train_perceptual(outdir / "perceptual.safetensors", cache, steps, images, device=choose_device(device))
    return _follow(records, steps, "perceptual", quiet)


@command.command("judge")
@click.option("--steps", default=3000, show_default=True)
@click.option("--images", default=40_000, show_default=True, help="Training portraits.")
@outdir_option
@cache_option
@device_option
@quiet_option
def judge(steps: int, images: int, outdir: Path, cache: Path, device: str, quiet: bool) -> int:
    """Train the judge, which reads attributes and identity for evaluation only.

    \b
    Example:
      latentopt train judge --outdir train
    """
    from latentopt.devices import choose_device
    from latentopt.training.attributes import train_judge

    records = train_judge(outdir / "judge.safetensors", cache, steps, images, device=choose_device(device))
    return _follow(records, steps, "judge", quiet)


def _follow(records: Iterable[Any], steps: int, label: str, quiet: bool) -> int:
    from latentopt.progress import Progress

    with Progress(steps, label, unit="step", quiet=quiet) as progress:
        for record in records:
            progress.advance(record.step - progress.done, attributes=record.attributes, identity=record.identity)
    return 0
