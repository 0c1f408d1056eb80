"""Training a refiner, as one call."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentopt.checkpoints.model_files import resolve
from latentopt.checkpoints.networks import load_discriminator
from latentopt.encoders.files import load_encoder
from latentopt.errors import CheckpointError, LatentoptError, UsageError
from latentopt.files.outputs import check_outdir
from latentopt.generators.discriminator import Discriminator
from latentopt.protocols import Generator
from latentopt.refiners.config import RefinerConfig
from latentopt.refiners.files import load_refiner
from latentopt.refiners.refiner import make_teacher
from latentopt.training import DRAWN
from latentopt.training.encoder_data import TrainingData, training_data
from latentopt.training.feature_nets import load_feature_net
from latentopt.training.loop import Training
from latentopt.training.parallel import Processes
from latentopt.training.refiner import RefinerRecord, RefinerTrainer
from latentopt.training.refiner_files import export, sheet, validate
from latentopt.training.refiner_settings import RefinerTraining

LOGGED_EVERY = 50  # steps
NO_TEACHER = "none"


def train_refiner(
    outdir: Path,
    generator: Generator,
    settings: RefinerTraining,
    *,
    encoder: str = "e4e",
    tap: int | None = None,
    width: int = 64,
    reader: str = "stem",
    data: str = "portraits",
    drawn: int = DRAWN,
    cache: Path | None = None,
    discriminator: str | None = None,
    teacher: str = "warps",
    teacher_file: str | None = None,
    similarity: Path | None = None,
    validate_every: int = 500,
    start: str | None = None,
    force: bool = False,
    command: str = "",
    processes: Processes | None = None,
) -> Training[RefinerRecord]:
    """Train StyleRes or WarpRes for a frozen generator and encoder, as the training is iterated; the same call goes on.

    Each snapshot leaves refiner-KIND.safetensors (the moving average of the weights) and refiner-KIND.png (held-out
    images, reconstructed and edited) in `outdir`, beside refiner-KIND.snapshot.pt and refiner-KIND.jsonl.

    Args:
        encoder: of the codes to be refined: its file, or a bundled one's kind.
        tap: height in pixels of the features that are refined (`latentopt.refiners.config.tap_layers`).
        width: channels within; reader: what reads the picture, `stem` or `ir-se-50` (the encoder's own).
        data, drawn, cache, validate_every, similarity, command, processes: as for `train_encoder`.
        discriminator: its file, or a bundled model's name; by default the generator's own, where there is one.
        teacher: of WarpRes's flow: warps, raft, or none; teacher_file: its weights, where they are not found.
        start: a trained refiner to begin with, its file or a bundled one's kind.
        force: take an encoder that was trained for another generator.

    Raises:
        UsageError: settings, a generator, data or an architecture that do not go together.
        CheckpointError: files that do not fit, or a snapshot that is damaged or was made with other settings.
        MissingWeightsError: no bundled encoder for the generator, or no weights of the teacher.
    """
    processes = processes or Processes()
    check_outdir(outdir)
    settings.check(generator, processes.count)
    if similarity is not None:
        settings = replace(settings, similarity_net=similarity.name)
    config = configured(generator, settings, tap, width, reader)
    base = load_encoder(encoder, generator, force=force)
    feature_net = None if similarity is None else load_feature_net(similarity).to(generator.device)
    guides = settings.kind == "warpres" and settings.flow_weight > 0 and teacher != NO_TEACHER
    teaching = make_teacher(teacher, generator, teacher_file) if guides else None
    critic: Discriminator | None = None
    note = ""
    if settings.adversarial_weight:
        critic, note = own_discriminator(generator, discriminator, settings.batch // processes.count)
    if not processes.first:
        processes.wait()  # until the first has drawn or read the pictures
    found = training_data(data, drawn, cache or outdir / "data", generator, generator.resolution, settings.seed)
    if processes.first:
        processes.wait()
    described = found.described | {"teacher": teacher if guides else NO_TEACHER}
    if start is not None:
        described |= {"start": Path(start).name}
    trainer = RefinerTrainer(
        settings, config, generator, base, found.stream, critic, teaching, processes, feature_net, described
    )
    if start is not None:
        trainer.start_from(load_refiner(start, generator, force=True))
    return _training(trainer, outdir, found, validate_every, command, note)


def configured(
    generator: Generator, settings: RefinerTraining, tap: int | None, width: int, reader: str
) -> RefinerConfig:
    """The architecture of a refiner. Raises UsageError for what does not go together."""
    read = {"reader": reader, "read_width": 128} if reader == "ir-se-50" else {"reader": reader, "read_width": width}
    try:
        return RefinerConfig.for_generator(generator, settings.kind, tap, form=settings.form, width=width, **read)
    except ValueError as error:
        raise UsageError(f"--kind {settings.kind}: {error}") from error


def own_discriminator(generator: Generator, named: str | None, images: int) -> tuple[Discriminator | None, str]:
    """The discriminator to start from: the one that is named, in the generator's file or beside it; and what there is
    to say where there is none. images: of a batch.

    Raises CheckpointError for one that is named and cannot be read or does not fit, UsageError for a batch that it
    cannot divide.
    """
    if named is not None:
        return _fitting(load_discriminator(named), generator, named, images), ""
    with suppress(LatentoptError):
        return _fitting(load_discriminator(generator.source), generator, generator.source, images), ""
    with suppress(LatentoptError):
        beside = resolve(generator.source).with_name("discriminator.safetensors")
        return _fitting(load_discriminator(beside), generator, str(beside), images), ""
    return None, (
        f"{generator.name} has no discriminator at hand that fits: trained without the adversarial loss; "
        "--discriminator FILE names one"
    )


def _fitting(found: Discriminator, generator: Generator, where: str, images: int) -> Discriminator:
    config = found.config
    side = [size << (len(config.channels) - 1) for size in config.const_size]
    if side != list(generator.resolution) or config.img_channels != generator.img_channels:
        raise CheckpointError(
            f"{where}: judges pictures of {side} with {config.img_channels} channels; {generator.name!r} draws "
            f"{list(generator.resolution)} with {generator.img_channels}"
        )
    group = min(config.mbstd_group_size or images, images)
    if config.mbstd_num_channels and images % group:
        raise UsageError(f"--batch: the discriminator compares pictures in groups of {group}; {images} are no multiple")
    return found


def _training(
    trainer: RefinerTrainer, outdir: Path, data: TrainingData, validate_every: int, command: str, note: str
) -> Training[RefinerRecord]:
    name = f"refiner-{trainer.settings.kind}"
    card = {"name": name, **trainer.described, **({"command": command} if command else {})}

    def leave() -> None:
        export(trainer, outdir / f"{name}.safetensors", card, data.held_out)
        sheet(trainer, data.held_out, outdir / f"{name}.png")

    def logged(record: RefinerRecord) -> dict[str, Any] | None:
        if record["step"] % validate_every == 0 or trainer.done:
            return record | {"held_out": validate(trainer, data.held_out)}
        return None if record["step"] % LOGGED_EVERY > 1 else record

    snapshot, log = outdir / f"{name}.snapshot.pt", outdir / f"{name}.jsonl"
    if not trainer.processes.first:
        return Training(trainer, snapshot, writes=False)
    notes = tuple(filter(None, (note, *(f"skipped: {reason}" for reason in data.skipped))))
    return Training(trainer, snapshot, leave, notes, log, logged)
