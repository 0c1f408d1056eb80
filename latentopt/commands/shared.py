"""The options that several commands have: the same words, type and help wherever they stand.

Each is called where it is used, `@network()`. What is given then is all that may differ: more names, another default.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latentopt.commands.paths import UserPath

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
LIKE_RUN = "the one that the results were made with"


def _option(*names: str, **settings: Any) -> Callable[..., Decorator]:
    def option(*more: str, **changes: Any) -> Decorator:
        return click.option(*names, *more, **(settings | changes))

    return option


network = _option(
    "--network",
    type=UserPath(),
    default="portraits",
    show_default=True,
    metavar="NAME|FILE",
    help="Generator: a file, a bundled one's name, or hf:USER/REPO.",
)
device = _option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
dtype = _option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Precision of what is drawn.",
)
seed = _option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Random seed.")
quiet = _option("-q", "--quiet", is_flag=True, help="No progress.")
outdir = _option(
    "--outdir",
    default="out",
    show_default=True,
    type=UserPath(path_type=Path),
    help="Output folder, in which the newest run is looked for too.",
)
to = _option("--to", type=UserPath(path_type=Path), help="Folder of what is written, instead of one in the run's.")
overwrite = _option("--overwrite", is_flag=True, help="Do finished images again.")

recipe_settings = _option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any entry of the recipe, as stages.0.lr=0.02."
)
terms = _option("--terms", help="Loss terms of every stage, with weights, such as perceptual=1,l2=1.")
steps = _option("--steps", "--num-steps", type=int, help="Optimisation steps of every stage.")
lr = _option("--lr", type=float, help="Learning rate of the first stage.")
batch = _option("--batch", type=int, help="Images at once: only speed and memory depend on it.")
placement = _option(
    "--placement",
    is_flag=True,
    help="Find angle and shift of the picture first, where the network draws moves (sample --help).",
)
init = _option(
    "--init",
    type=UserPath(within=":"),
    metavar="START",
    help="Where it starts: mean, p-mean, linear, lmmse, sample, best-of, file:PATH, e4e (psp, ...), encoder:PATH.",
)
encoder = _option(
    "--encoder",
    default="e4e",
    show_default=True,
    type=UserPath(),
    metavar="KIND|FILE",
    help="psp, e4e, restyle-psp, restyle-e4e, or a file.",
)
refine = _option(
    "--refine",
    type=UserPath(),
    metavar="KIND|FILE",
    help="Add to features what the latents lack, moved along with edits: styleres, warpres, or a refiner's file.",
)
dry_run = _option("-n", "--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
fit = _option(
    "--fit",
    default="crop",
    show_default=True,
    type=click.Choice(["crop", "pad", "stretch"]),
    help="How pictures are made to fit.",
)

align = _option(
    "--align",
    metavar="faces|none|box:X,Y,SIZE",
    help="What is cut out of each picture: its faces, nothing, or a square by its top left corner.",
)
points = _option(
    "--points",
    type=UserPath(),
    metavar="FILE|X,Y ...",
    help="Eyes and corners of the mouth, found elsewhere: four places, or a JSON or CSV file (docs/faces.md).",
)
largest = _option("--largest", is_flag=True, help="Of several faces in a picture only the largest.")
detector = _option("--detector", default="blazeface", show_default=True, help="What finds faces.")

directions = _option(
    "--directions",
    "files",
    multiple=True,
    type=UserPath(),
    metavar="FILE",
    help="Directions to edit by; by default all of the generator's that are at hand.",
)
force_directions = _option("--force", is_flag=True, help="Take directions that were made for another generator.")
out = _option(
    "--out",
    type=UserPath(path_type=Path),
    help="File to write; by default one that is called after the generator, where it is found by itself.",
)
stats = _option("--stats", type=UserPath(path_type=Path), help="P-norm statistics; found by default.")
judge = _option(
    "--judge",
    type=UserPath(),
    metavar="NAME|FILE|CODE",
    help="What reads attributes: a bundled name, a file, or package.module:function, which imports and runs your own "
    "code.",
)
pose = _option("--pose", default="yaw", show_default=True, help="Attribute and direction of the pose response.")
metrics = _option(
    "--metrics",
    default="perceptual",
    show_default=True,
    help="Perceptual distances, comma-separated: perceptual, bundled, lpips-vgg, lpips-alex, vgg.",
)
lec = _option(
    "--lec", default=4, show_default=True, type=click.IntRange(0), help="Images inverted again for LEC; 0: none."
)
