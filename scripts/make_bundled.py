"""Make everything that latentopt ships, from nothing: `python scripts/make_bundled.py`. Stop it and run it again at will.

The networks of the portraits domain are trained (four to five hours on two CPU cores, minutes on a GPU), the statistics
fitted, the sample pictures drawn. Snapshots and training pictures lie under work/, which git ignores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from latentopt.editing.labels import Labelled
    from latentopt.editing.spaces import EditingSpace

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
DIRECTIONS = {  # attribute: first and last row of ws that it moves, and what it is made independent of
    "yaw": (0, 1, ("skin_tone",)),
    "smile": (0, 9, ("beard", "glasses", "hair_length", "hair_tone")),
    "glasses": (0, 1, ()),
    "beard": (0, 3, ("glasses",)),
    "hair_length": (0, 3, ("beard", "glasses")),
    "hair_tone": (2, 6, ("skin_tone",)),
    "hair_red": (5, 6, ()),
    "fringe": (1, 4, ("hair_length",)),
    "skin_tone": (0, 5, ("hair_tone",)),
    "face_width": (0, 4, ("face_height",)),
    "face_height": (0, 3, ("glasses",)),
    "light_direction": (0, 4, ()),
    "background_red": (4, 9, ()),
    "background_green": (4, 9, ()),
    "background_blue": (4, 9, ()),
    "shirt_red": (5, 9, ()),
    "shirt_green": (5, 9, ("hair_red",)),
    "shirt_blue": (5, 9, ()),
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
    from latentopt.evaluation.preflight import SUFFIX, Preflight
    from latentopt.generators.checkpoints import load_generator

    Preflight.of(load_generator(name)).save(ROOT / "pnorm_stats" / f"{name}{SUFFIX}")


def make_directions(name: str, samples: int = DIRECTION_SAMPLES) -> None:
    """The named directions of a bundled generator, from samples that the judge labels; about four minutes on one core."""
    from latentopt.editing.labels import read_labels
    from latentopt.editing.spaces import EditingSpace
    from latentopt.evaluation.judge import load_judge
    from latentopt.evaluation.judge_protocol import judge_name
    from latentopt.generators.checkpoints import load_generator
    from latentopt.pnorm import find_stats

    click.echo(f"directions of {name}")
    generator, judge = load_generator(name), load_judge("portraits")
    space = EditingSpace("p-norm", generator, find_stats(generator)[0])
    about = {"judge": judge_name(judge), "samples": samples, "licence": "Apache-2.0"}
    names, binary = judge.config.attributes, judge.config.binary
    codes = space.sample(samples, DIRECTION_SEED)
    ship_directions(name, read_labels(generator, codes, judge, names, binary, **about), space)


def ship_directions(name: str, labelled: Labelled, space: EditingSpace) -> None:
    """Write the directions of DIRECTIONS. More conditions would leave too little of what they are named after."""
    from latentopt.editing.files import save_directions
    from latentopt.editing.interfacegan import find_interfacegan

    found = []
    for attribute, (first, last, conditions) in DIRECTIONS.items():
        settings = {"condition": conditions, "layers": range(first, last + 1), "seed": DIRECTION_SEED}
        found += find_interfacegan(labelled, space, names=[attribute], **settings)
    save_directions(ROOT / "latentopt" / "bundled" / name / "directions.safetensors", found)


def ship_encoder(source: Path, folder: Path) -> None:
    """Copy an encoder in 16 bits: half the bytes, and codes that differ by less than the encoder errs."""
    import torch

    from latentopt.encoders.files import load_encoder, save_encoder

    save_encoder(load_encoder(source), folder / source.name, torch.float16)


if __name__ == "__main__":
    main()
