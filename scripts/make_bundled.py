"""Make everything that latentopt ships, from nothing: `python scripts/make_bundled.py`. Stop it and run it again at
will.

The networks of the portraits domain are trained (four to five hours on two CPU cores, minutes on a GPU), the statistics
fitted, the sample pictures drawn. Snapshots and training pictures lie under work/, which git ignores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from latentopt.editing.direction import Direction
    from latentopt.generators.stylegan2 import StyleGAN2
    from latentopt.judge.network import Judge

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NETWORKS = ("generator", "discriminator", "perceptual", "judge")
WRANGAN = ("generator", "discriminator", "sigma")
RANDOMIZED = ("--layers", "6", "--sigma-init", "0.1", "--keep-level")
ENCODERS = {
    "psp": ("--steps", "4500"),
    "e4e": ("--steps", "4500"),
    "restyle-psp": ("--steps", "3000", "--restyle-steps", "3"),
    "restyle-e4e": ("--steps", "3000", "--restyle-steps", "3"),
}
DIRECTION_SAMPLES, DIRECTION_SEED = 10_000, 1
HYPERPLANES = {(0, 1): "glasses"}  # what is there or not: a learned direction pleases the judge without drawing them
DIRECTIONS = {  # first and last row of ws that they move: those that draw what they are named after
    (0, 5): "yaw beard hair_length fringe skin_tone face_width face_height light_direction",
    (2, 5): "smile eye_opening brow_tilt",
    (2, 6): "hair_tone hair_red",
    (3, 9): "iris_tone background_red background_green background_blue shirt_red shirt_green shirt_blue",
}


def latentopt(*arguments: str) -> None:
    """One latentopt command, run from this checkout."""
    click.echo(f"latentopt {' '.join(arguments)}")
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *arguments], check=True, cwd=ROOT)


@click.command()
@click.option("--images", default=300_000, show_default=True, help="Real images to show to the generator in all.")
@click.option("--wrangan-images", default=100_000, show_default=True, help="The same for the WRanGAN made from it.")
@click.option("--samples", default="1e6", show_default=True, help="Samples for the P-norm statistics.")
@click.option("--work", default="work", show_default=True, help="Folder of snapshots and training pictures.")
@click.option("--device", default="auto", show_default=True)
@click.option("--minutes", type=float, help="Stop training a generator after this long and ship what there is.")
def main(images: int, wrangan_images: int, samples: str, work: str, device: str, minutes: float | None) -> None:
    """Train, fit and draw what is not there yet, then copy it into the package."""
    common = ("--outdir", work, "--cache", f"{work}/data", "--device", device)
    latentopt("train", "perceptual", *common)
    latentopt("train", "judge", "--steps", "5000", *common)
    limit = () if minutes is None else ("--minutes", str(minutes))
    latentopt("train", "generator", "--images", str(images), "--name", "portraits", *limit, *common)
    bundled = ship(NETWORKS, ROOT / work, "portraits")
    randomized = ("--outdir", f"{work}/wrangan", *common[2:])
    length = ("--images", str(wrangan_images), "--name", "portraits-wrangan")
    latentopt("train", "wrangan", "--start", "portraits", *RANDOMIZED, *length, *limit, *randomized)
    ship(WRANGAN, ROOT / work / "wrangan", "portraits-wrangan")
    for name, more in (("portraits", ("--prior",)), ("portraits-wrangan", ())):
        stats = ("--out", f"pnorm_stats/{name}.safetensors", "--overwrite")
        latentopt("fit-pnorm", "--network", name, "--samples", samples, *more, *stats)
        latentopt("fit-metric", "--network", name, "--out", f"pnorm_stats/{name}.metric.safetensors", "--overwrite")
        calibrate_preflight(name)
        make_directions(name)
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_samples.py")], check=True, cwd=ROOT)
    for kind, settings in ENCODERS.items():
        latentopt("train", "encoder", "--kind", kind, *settings, *common)
        ship_encoder(ROOT / work / f"encoder-{kind}.safetensors", bundled)


def ship(names: tuple[str, ...], source: Path, model: str) -> Path:
    """Copy a model's networks into the package; the folder they went to."""
    folder = ROOT / "latentopt" / "bundled" / model
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / f"{name}.safetensors", folder / f"{name}.safetensors")
    return folder


def calibrate_preflight(name: str) -> None:
    """What the preflight holds pictures against: readings of the generator's own samples."""
    from latentopt.checkpoints.networks import load_generator
    from latentopt.preflight.preflight import SUFFIX, Preflight

    Preflight.of(load_generator(name)).save(ROOT / "pnorm_stats" / f"{name}{SUFFIX}")


def make_directions(name: str) -> None:
    """The named directions of a bundled generator, by the judge; about a quarter of an hour on one core."""
    from latentopt.checkpoints.networks import load_generator
    from latentopt.editing.files import save_directions
    from latentopt.judge.network import load_judge

    click.echo(f"directions of {name}")
    generator, judge = load_generator(name), load_judge("portraits")
    found = [*hyperplanes(generator, judge), *learned(generator, judge)]
    found = [replace(direction, about=direction.about | {"licence": "Apache-2.0"}) for direction in found]
    save_directions(ROOT / "latentopt" / "bundled" / name / "directions.safetensors", found)


def hyperplanes(generator: StyleGAN2, judge: Judge) -> Iterator[Direction]:
    from latentopt.editing.interfacegan import find_interfacegan
    from latentopt.editing.labels import read_labels
    from latentopt.editing.spaces import EditingSpace
    from latentopt.judge.protocol import judge_name
    from latentopt.statistics.at_hand import given_or_found
    from latentopt.statistics.pnorm import PNORM

    space = EditingSpace("p-norm", generator, given_or_found(PNORM, generator)[0])
    about = {"judge": judge_name(judge), "samples": DIRECTION_SAMPLES}
    codes = space.sample(DIRECTION_SAMPLES, DIRECTION_SEED)
    labelled = read_labels(generator, codes, judge, judge.attributes, judge.binary_attributes, **about)
    for (first, last), names in HYPERPLANES.items():
        settings = {"condition": "none", "layers": range(first, last + 1), "seed": DIRECTION_SEED}
        yield from find_interfacegan(labelled, space, names=names.split(), **settings)


def learned(generator: StyleGAN2, judge: Judge) -> Iterator[Direction]:
    from latentopt.editing.ganalyze import find_ganalyze
    from latentopt.editing.spaces import EditingSpace

    space = EditingSpace("w+", generator)
    for (first, last), names in DIRECTIONS.items():
        for attribute in names.split():
            click.echo(f"direction {attribute}")
            layers = range(first, last + 1)
            yield from find_ganalyze(space, judge, names=[attribute], layers=layers, seed=DIRECTION_SEED)


def ship_encoder(source: Path, folder: Path) -> None:
    """Copy an encoder in 16 bits: half the bytes, and codes that differ by less than the encoder errs."""
    import torch

    from latentopt.encoders.files import load_encoder, save_encoder

    save_encoder(load_encoder(source), folder / source.name, torch.float16)


if __name__ == "__main__":
    main()
