"""Training an encoder, as one call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from latentopt.encoders.config import EncoderConfig
from latentopt.encoders.files import load_encoder
from latentopt.errors import UsageError
from latentopt.files.outputs import check_outdir
from latentopt.protocols import Generator
from latentopt.training import DRAWN
from latentopt.training.encoder import EncoderRecord, EncoderTrainer
from latentopt.training.encoder_data import TrainingData, training_data
from latentopt.training.encoder_files import export, reconstruction_sheet, validate
from latentopt.training.encoder_settings import EncoderTraining
from latentopt.training.feature_nets import load_feature_net
from latentopt.training.loop import Training
from latentopt.training.parallel import Processes

LOGGED_EVERY = 50  # steps


def train_encoder(
    outdir: Path,
    generator: Generator,
    settings: EncoderTraining,
    *,
    backbone: str = "small",
    heads: str | None = None,
    size: int | None = None,
    data: str = "portraits",
    drawn: int = DRAWN,
    cache: Path | None = None,
    start: str | None = None,
    similarity: Path | None = None,
    validate_every: int = 500,
    command: str = "",
    processes: Processes | None = None,
) -> Training[EncoderRecord]:
    """Train a pSp, e4e or ReStyle encoder for a frozen generator, as the training is iterated; the same call goes on.

    Each snapshot leaves encoder-KIND.safetensors (the moving average of the weights) and encoder-KIND.png (held-out
    images and their reconstructions) in `outdir`, beside encoder-KIND.snapshot.pt and encoder-KIND.jsonl.

    Args:
        settings: `settings_for` has those of each kind.
        backbone, heads, size: the architecture; see `configured`.
        data: portraits, of which `drawn` are drawn, samples (the generator's own), or a folder of pictures; kept in
            `cache` (outdir/data).
        start: a trained encoder to begin with, its file or a bundled one's kind.
        similarity: weights of the network of the similarity loss; by default the perceptual network's features.
        validate_every: steps between two measurements on held-out images, which go into the log.
        command: stored in the card. processes: see `join_processes`; the first alone writes files.

    Raises:
        UsageError: settings, a generator, data or an architecture that do not go together.
        CheckpointError: a start that does not fit, or a snapshot that is damaged or was made with other settings.
        ImageError: a folder without pictures that can be read.
    """
    processes = processes or Processes()
    check_outdir(outdir)
    settings.check(generator, processes.count)
    if similarity is not None:
        settings = replace(settings, similarity_net=similarity.name)
    config = configured(generator, settings.kind, backbone, heads, size)
    feature_net = None if similarity is None else load_feature_net(similarity).to(generator.device)
    if not processes.first:
        processes.wait()  # until the first has drawn or read the pictures
    found = training_data(data, drawn, cache or outdir / "data", generator, config.image_size, settings.seed)
    if processes.first:
        processes.wait()
    described = found.described | ({} if start is None else {"start": Path(start).name})
    trainer = EncoderTrainer(settings, config, generator, found.stream, processes, feature_net, described)
    if start is not None:
        trainer.start_from(load_encoder(start, generator, force=True))
    return _training(trainer, outdir, found, validate_every, command)


def configured(generator: Generator, kind: str, backbone: str, heads: str | None, size: int | None) -> EncoderConfig:
    """The architecture of an encoder.

    heads: pyramid or simple; by default pyramid, for ReStyle simple. size: the longer side of the images it takes, at
    most the generator's; by default 64 (small backbone) or 256. Raises UsageError for what does not go together.
    """
    changes: dict[str, object] = {} if heads is None else {"heads": heads}
    height, width = generator.resolution
    largest = max(height, width)
    side = min(size or (64 if backbone == "small" else 256), largest)
    changes["image_size"] = (height * side // largest, width * side // largest)
    try:
        return EncoderConfig.for_generator(generator, kind, backbone, **changes)
    except ValueError as error:
        raise UsageError(f"--kind {kind} --backbone {backbone}: {error}") from error


def _training(
    trainer: EncoderTrainer, outdir: Path, data: TrainingData, validate_every: int, command: str
) -> Training[EncoderRecord]:
    name = f"encoder-{trainer.settings.kind}"
    card = {"name": name, **trainer.described, **({"command": command} if command else {})}

    def leave() -> None:
        export(trainer, outdir / f"{name}.safetensors", card, data.held_out)
        reconstruction_sheet(trainer, data.held_out, outdir / f"{name}.png")

    def logged(record: EncoderRecord) -> dict[str, Any] | None:
        if record["step"] % validate_every == 0 or trainer.done:
            return record | {"held_out": validate(trainer, data.held_out)}
        return None if record["step"] % LOGGED_EVERY else record

    snapshot, log = outdir / f"{name}.snapshot.pt", outdir / f"{name}.jsonl"
    if not trainer.processes.first:
        return Training(trainer, snapshot, writes=False)
    notes = tuple(f"skipped: {reason}" for reason in data.skipped)
    return Training(trainer, snapshot, leave, notes, log, logged)
