"""What a generator's repository on the Hub holds: its weights, its statistics, samples, and a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentopt.checkpoints.model_files import read_checkpoint, resolve
from latentopt.checkpoints.networks import load_generator
from latentopt.editing.files import DIRECTIONS
from latentopt.editing.pictures import save_samples
from latentopt.errors import UsageError
from latentopt.files.kinds import kind_of
from latentopt.files.storage import load_metadata
from latentopt.preflight.preflight import PREFLIGHT
from latentopt.protocols import Generator
from latentopt.sharing.card import Card, Code, Picture, plain, table
from latentopt.statistics.at_hand import FileKind, files_of
from latentopt.statistics.linear_prior import PRIOR
from latentopt.statistics.metric_files import METRIC
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.sigma import SIGMA

KINDS: tuple[FileKind[Any], ...] = (PNORM, METRIC, SIGMA, PRIOR, PREFLIGHT, DIRECTIONS)
SAMPLES = 16
FIGURES = ("fid", "kid", "frechet", "precision", "recall", "density", "coverage", "path_length")  # of a file's card
TRAINING = ("data", "images_seen", "steps", "seed", "start", "command")


def generator_files(source: str | Path, repo: str, licence: str | None, folder: Path) -> dict[str, Path]:
    """{name in the repository: file}; samples and card are written to `folder`.

    Raises UsageError for a pickle and for other files that latentopt did not write, CheckpointError for damaged ones.
    """
    path = check_ours(source)
    generator = load_generator(source)
    save_samples(generator, range(SAMPLES), folder, psi=0.7, label=0 if generator.c_dim else None)
    files = {"generator.safetensors": path, "samples.png": folder / "grid.png"}
    for kind in KINDS:
        if (found := _own_file(kind, generator)) is not None:
            files[f"{kind.word}.safetensors"] = found
    card = generator_card(
        generator, repo, licence, [kind.title for kind in KINDS if f"{kind.word}.safetensors" in files]
    )
    (folder / "README.md").write_text(card.text(), encoding="utf-8")
    return files | {"README.md": folder / "README.md"}


def check_ours(source: str | Path) -> Path:
    """The file of a generator that may be put on the Hub. Raises UsageError for pickles and files of other tools."""
    path = resolve(source)
    kind = kind_of(path)
    if kind.name == "safetensors" and read_checkpoint(path).is_ours:
        return path
    reason = (
        "a safetensors file of another tool" if kind.name == "safetensors" else f"{kind.words}, which may hold code"
    )
    raise UsageError(
        f"{source}: {reason}; only latentopt's safetensors files are put on the Hub. "
        f"Convert it first: latentopt convert {source} generator.safetensors"
    )


def _own_file(kind: FileKind[Any], generator: Generator) -> Path | None:
    """The preferred file of a kind that was made for exactly these weights."""
    own = (
        path for path in files_of(kind, generator) if load_metadata(path).get("fingerprint") == generator.fingerprint
    )
    return next(own, None)


def generator_card(generator: Generator, repo: str, licence: str | None, beside: list[str]) -> Card:
    height, width = generator.resolution
    held = f" With it come its {', '.join(beside)}, which are found by themselves." if beside else ""
    return Card(
        title=repo.split("/")[1],
        summary=f"A {generator.family} generator that draws pictures of {width}x{height} pixels, for inversion and "
        f"editing with latentopt.{held}",
        picture=Picture("samples.png", f"{SAMPLES} samples, truncation 0.7, seeds 0 to {SAMPLES - 1}"),
        facts={
            "family": generator.family,
            "resolution": f"{width}x{height}, {generator.img_channels} channels",
            "latents": f"{generator.num_ws} rows of w, of {generator.w_dim} numbers each",
            "labels": generator.c_dim or None,
            "fingerprint": generator.fingerprint,
            "notes": "; ".join(generator.notes),
        },
        data=_data(generator.card),
        figures=_figures(generator.card),
        uses=(
            (
                "On the command line:",
                Code("bash", f"pip install 'latentopt[hub]'\nlatentopt invert photos/ --network hf:{repo}"),
            ),
            (
                "From Python:",
                Code("python", f'import latentopt\n\ng = latentopt.load_generator("hf:{repo}")\n'
                'results = latentopt.invert(g, ["face.png"])'),
            ),
        ),
        licence=licence or _text(generator.card.get("licence")),
        tags=["stylegan", "gan-inversion", "image-editing", generator.family.lower()],
        about={"pipeline_tag": "unconditional-image-generation"},
    )  # fmt: skip


def _data(card: Mapping[str, object]) -> str:
    known = [(name.replace("_", " "), card[name]) for name in TRAINING if card.get(name) not in (None, "")]
    if not known:
        return "Nothing is on record about the data that it was trained on."
    return table(("what is on record of the training", ""), known)


def _figures(card: Mapping[str, object]) -> str:
    """Those that the file's card has, itself or under `figures`."""
    inner = card.get("figures")
    entries = inner if isinstance(inner, Mapping) else {name: card[name] for name in FIGURES if name in card}
    numbers = [(plain(name), value) for name, value in entries.items() if isinstance(value, (int, float))]
    return table(("figure", "value"), numbers) if numbers else "The file has no figures of quality on record."


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
