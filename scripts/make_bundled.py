"""Make what latentopt ships for its portraits: `python scripts/make_bundled.py`. Stop it and run it again at will.

    python scripts/make_bundled.py --generator work-domain/plain   # a new generator, and all that hangs on it
    python scripts/make_bundled.py --only encoder-e4e              # one part
    python scripts/make_bundled.py --list                          # what is up to date

Every file names, by its fingerprint, the generator that it was made for. What names the present one is left as it is;
the rest is made again, in the order of the list. Trainings lie in a folder of work/ that is named after the generator,
and go on where they stopped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from bundled_directions import make_directions

from latentopt.checkpoints.networks import load_generator
from latentopt.files.storage import load_metadata, load_tensors, save_tensors
from latentopt.preflight.preflight import SUFFIX, Preflight

ROOT = Path(__file__).resolve().parent.parent
BUNDLED, STATISTICS = ROOT / "latentopt" / "bundled", ROOT / "pnorm_stats"
BASE, RANDOMIZED = "portraits", "portraits-wrangan"
FLOW = BUNDLED / BASE / "flow.safetensors"
NETWORKS = {"perceptual": (), "judge": ("--steps", "5000")}  # trained on portraits alone: they outlive a generator
RANDOMIZING = ("--layers", "6", "--sigma-init", "0.1", "--keep-level", "--name", RANDOMIZED)
RESTYLE_STEPS = ("--restyle-steps", "5")
REFINING = (  # more of likeness than usual: distances of the bundled perceptual network are small
    *("--width", "48", "--lr", "1e-3", "--l2-weight", "5", "--perceptual-weight", "10", "--similarity-weight", "0.5"),
    *("--cycle-perceptual", "1", "--cycle-similarity", "0.05"),
)
ENCODERS = {"psp": (), "e4e": (), "restyle-psp": RESTYLE_STEPS, "restyle-e4e": RESTYLE_STEPS}


@dataclass(frozen=True)
class Settings:
    """How much of everything; `device` and `work` are those of the trainings."""

    work: Path
    device: str
    samples: str
    wrangan_images: int
    encoder_steps: int
    refiner_steps: int
    minutes: float | None

    def folder(self) -> Path:
        """Of the trainings for the present generator."""
        return self.work / fingerprint(BASE)

    @property
    def common(self) -> tuple[str, ...]:
        limit = () if self.minutes is None else ("--minutes", str(self.minutes))
        return ("--cache", str(self.work / "data"), "--device", self.device, *limit)


@dataclass(frozen=True)
class Part:
    """One file that belongs to a bundled model; `made_for` is the entry of its metadata that says to which."""

    name: str
    model: str
    file: Path
    make: Callable[[Settings], None]
    made_for: str = "fingerprint"

    @property
    def up_to_date(self) -> bool:
        return self.file.exists() and load_metadata(self.file).get(self.made_for) == fingerprint(self.model)


def fingerprint(model: str) -> str:
    return load_metadata(BUNDLED / model / "generator.safetensors")["fingerprint"]


def latentopt(*arguments: str) -> None:
    """One latentopt command, run from this checkout."""
    click.echo(f"latentopt {' '.join(arguments)}")
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *arguments], check=True, cwd=ROOT)


def network_part(kind: str, more: tuple[str, ...]) -> Part:
    def make(settings: Settings) -> None:
        latentopt("train", kind, *more, "--outdir", str(settings.work), *settings.common)
        ship([kind], settings.work, BASE)

    return Part(kind, BASE, BUNDLED / BASE / f"{kind}.safetensors", make)


def make_wrangan(settings: Settings) -> None:
    outdir = settings.folder() / "wrangan"
    images = ("--images", str(settings.wrangan_images), "--outdir", str(outdir))
    earlier = BUNDLED / RANDOMIZED / "sigma.safetensors"  # its generator had the same layers, and much of their weights
    sigma = ("--sigma", str(earlier)) if earlier.exists() else ()
    latentopt("train", "wrangan", "--start", BASE, *RANDOMIZING, *sigma, *images, *settings.common)
    ship(["generator", "sigma"], outdir, RANDOMIZED)


def parts_of(model: str) -> list[Part]:
    """What is fitted to samples of a model."""
    statistics, metric = (STATISTICS / f"{model}{suffix}.safetensors" for suffix in ("", ".metric"))
    prior = ("--prior",) if model == BASE else ()

    def fit(command: str, out: Path, *more: str) -> Callable[[Settings], None]:
        return lambda _: latentopt(command, "--network", model, *more, "--out", str(out), "--overwrite")

    return [
        Part("pnorm", model, statistics, lambda s: fit("fit-pnorm", statistics, "--samples", s.samples, *prior)(s)),
        Part("metric", model, metric, fit("fit-metric", metric)),
        Part("preflight", model, STATISTICS / f"{model}{SUFFIX}", lambda _: calibrate_preflight(model)),
        Part("directions", model, BUNDLED / model / "directions.safetensors", lambda _: make_directions(model)),
    ]


def encoder_part(kind: str, more: tuple[str, ...]) -> Part:
    shipped = BUNDLED / BASE / f"encoder-{kind}.safetensors"

    def make(settings: Settings) -> None:
        """Begins with the encoder of the generator before: it sees the same pictures."""
        start = ("--start", str(shipped)) if shipped.exists() else ()
        steps = ("--steps", str(settings.encoder_steps), "--outdir", str(settings.folder()))
        latentopt("train", "encoder", "--kind", kind, *start, *more, *steps, *settings.common)
        in_halves(settings.folder() / shipped.name, shipped)

    return Part(f"encoder-{kind}", BASE, shipped, make, made_for="generator")


def refiner_part(kind: str) -> Part:
    shipped = BUNDLED / BASE / f"refiner-{kind}.safetensors"
    teacher = ("--teacher-file", str(FLOW), "--flow-weight", "0.5") if kind == "warpres" else ()

    def make(settings: Settings) -> None:
        steps = ("--steps", str(settings.refiner_steps), *REFINING, "--outdir", str(settings.folder()))
        latentopt("train", "refiner", "--kind", kind, "--encoder", "e4e", *teacher, *steps, *settings.common)
        in_halves(settings.folder() / shipped.name, shipped)

    return Part(f"refiner-{kind}", BASE, shipped, make, made_for="generator")


def make_flow(settings: Settings) -> None:
    latentopt("train", "flow", "--outdir", str(settings.folder()), *settings.common)
    in_halves(settings.folder() / FLOW.name, FLOW)


def calibrate_preflight(model: str) -> None:
    """What the preflight holds pictures against: readings of the generator's own samples."""
    Preflight.of(load_generator(model)).save(STATISTICS / f"{model}{SUFFIX}")


def ship(names: list[str], source: Path, model: str) -> None:
    """Copy a model's networks into the package."""
    for name in names:
        copy = in_halves if name == "discriminator" else shutil.copyfile  # it only serves to train on
        copy(source / f"{name}.safetensors", BUNDLED / model / f"{name}.safetensors")


def in_halves(source: Path, target: Path) -> None:
    """The same weights in float16: half the bytes, and what they make differs by less than it errs."""
    tensors, metadata = load_tensors(source)
    save_tensors(target, {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}, metadata)


def all_parts() -> list[Part]:
    """In the order in which they are made: encoders and flow come before the refiners, which learn from them."""
    wrangan = Part("wrangan", BASE, BUNDLED / RANDOMIZED / "sigma.safetensors", make_wrangan, made_for="base")
    encoders = [encoder_part(kind, more) for kind, more in ENCODERS.items()]
    flow = Part("flow", BASE, FLOW, make_flow, made_for="generator")
    refiners = [refiner_part(kind) for kind in ("styleres", "warpres")]
    return [*parts_of(BASE), *encoders, flow, *refiners, wrangan, *parts_of(RANDOMIZED)]


@click.command()
@click.option("--generator", type=click.Path(path_type=Path), help="Folder of a trained pair to ship first.")
@click.option("--only", multiple=True, help="Parts to make, by their names in --list; all that are not up to date.")
@click.option("--list", "listed", is_flag=True, help="Only say what is up to date.")
@click.option("--encoder-steps", default=12_000, show_default=True, help="Updates of every encoder.")
@click.option("--refiner-steps", default=10_000, show_default=True, help="Updates of every refiner.")
@click.option("--wrangan-images", default=100_000, show_default=True, help="Real images to show to the WRanGAN.")
@click.option("--samples", default="1e6", show_default=True, help="Samples for the P-norm statistics.")
@click.option("--work", default=ROOT / "work", type=click.Path(path_type=Path), help="Folder of the trainings.")
@click.option("--device", default="auto", show_default=True)
@click.option("--minutes", type=float, help="Stop each training after this long and ship what there is.")
def main(generator: Path | None, only: tuple[str, ...], listed: bool, **settings: object) -> None:
    """Make what is not up to date."""
    for kind, more in NETWORKS.items():
        part = network_part(kind, more)
        if not part.file.exists():
            part.make(Settings(**settings))  # type: ignore[arg-type]
    if generator is not None:
        ship(["generator", "discriminator"], generator, BASE)
    for part in all_parts():
        name = part.name if part.model == BASE else f"{part.model}:{part.name}"
        if listed or part.up_to_date:
            click.echo(f"{name}: {'up to date' if part.up_to_date else 'to be made'}")
        elif not only or name in only:
            part.make(Settings(**settings))  # type: ignore[arg-type]
    if not listed:
        subprocess.run([sys.executable, str(ROOT / "scripts" / "make_samples.py")], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
