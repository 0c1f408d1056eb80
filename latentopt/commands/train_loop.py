"""One adversarial training from the command line: its data, where it begins, and the loop that keeps snapshots."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.errors import UsageError

if TYPE_CHECKING:
    from latentopt.generators.discriminator import Discriminator
    from latentopt.generators.stylegan2 import StyleGAN2
    from latentopt.training.generator import GeneratorTrainer
    from latentopt.training.streams import ArrayStream


def load_start(start: str) -> tuple[StyleGAN2, Discriminator]:
    """The trained pair: a bundled model, a folder that has both files, or a snapshot that holds both.

    Raises UsageError where the discriminator is lacking, CheckpointError for files that are no such networks.
    """
    from latentopt.checkpoints.networks import load_discriminator, load_stylegan2
    from latentopt.errors import LatentoptError

    folder = Path(start)
    sources = {
        kind: str(folder / f"{kind}.safetensors") if folder.is_dir() else start
        for kind in ("generator", "discriminator")
    }
    generator = load_stylegan2(sources["generator"])
    try:
        return generator, load_discriminator(sources["discriminator"])
    except LatentoptError as error:
        remedy = (
            "a training begins with a generator and its discriminator: give a folder with generator.safetensors and"
        )
        raise UsageError(f"--start {start}: {error}; {remedy} discriminator.safetensors, or portraits") from error


def described_data(data: str, drawn: int) -> dict[str, object]:
    """The training data, for the card."""
    return {"data": "portraits", "drawn": drawn} if data == "portraits" else {"data": f"folder {Path(data).name}"}


def start_name(start: str) -> str:
    """The start, for the card: no folders of this machine."""
    return start if start == "portraits" else Path(start).name


def check_data(weights: Path, described: dict) -> None:
    """Refuse to go on with other data than the earlier part of the training had."""
    from latentopt.files.storage import load_tensors

    if not weights.exists():
        return
    card = json.loads(load_tensors(weights)[1].get("card", "{}"))
    before = {key: card.get(key) for key in ("data", "drawn") if key in card}
    if before != described:
        raise UsageError(f"{weights}: was trained on {before}, not on {described}; use another --outdir")


def stream_of(data: str, drawn: int, cache: Path, resolution: int) -> ArrayStream:
    """The images of `data`: drawn portraits, or a folder's pictures."""
    from latentopt.training.streams import ArrayStream, portrait_stream

    if data == "portraits":
        return portrait_stream(cache, drawn, resolution)
    from latentopt.data.folders import folder_images

    images, skipped = folder_images(Path(data), cache, resolution)
    for reason in skipped:
        click.echo(f"skipped: {reason}", err=True)
    return ArrayStream(images)


def train(
    trainer: GeneratorTrainer,
    outdir: Path,
    name: str,
    card: dict[str, Any],
    minutes: float | None,
    quiet: bool,
    every: float = 240.0,
) -> int:
    """Train until done (exit code 0), the time is up (0), or interrupted (130)."""
    from latentopt.commands.progress import Progress
    from latentopt.training.export import export, sample_sheet

    card = card | {"command": " ".join(["latentopt", *sys.argv[1:]])}

    def keep() -> None:
        trainer.save(outdir / "snapshot.pt")
        export(trainer, outdir, name, card)
        sample_sheet(trainer, outdir / "samples.png")

    asked, ends = interruptions(), float("inf") if minutes is None else time.monotonic() + 60 * minutes

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
                figures = {"sigma": trainer.sigma_ema.figures()} if settings.randomized else {}
                log.write(json.dumps(asdict(record) | figures) + "\n")
                log.flush()
            ending = stop()
            if ending or time.monotonic() - kept > every:
                keep()
                kept = time.monotonic()
            if ending:
                return 130 if asked else 0
    keep()
    return 0


def interruptions() -> list[int]:
    """Filled by Ctrl-C or SIGTERM, after which the step is finished and kept; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked
