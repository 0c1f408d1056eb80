"""The named directions of a bundled generator, by the judge: about a quarter of an hour on one core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import click
import torch

from latentopt.checkpoints.model_files import BUNDLED
from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.editing.ganalyze import find_ganalyze
from latentopt.editing.interfacegan import find_interfacegan
from latentopt.editing.labels import read_labels
from latentopt.editing.spaces import EditingSpace
from latentopt.judge.network import Judge, load_judge
from latentopt.judge.protocol import judge_name
from latentopt.protocols import Generator
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

SAMPLES, SEED = 10_000, 1
HYPERPLANES = {(0, 1): "glasses"}  # what is there or not: a learned direction pleases the judge without drawing them
ASKED, ANSWER, LENGTHS = 128, 0.55, (1.0, 1.25, 1.5, 1.75, 2.0, 2.5)  # samples, deviations, of the latents' deviation
LEARNED = {  # first and last row of ws that they move: those that draw what they are named after
    (0, 5): "yaw beard hair_length fringe skin_tone face_width face_height light_direction",
    (2, 5): "smile eye_opening brow_tilt",
    (2, 6): "hair_tone hair_red",
    (3, 9): "iris_tone background_red background_green background_blue shirt_red shirt_green shirt_blue",
}


def make_directions(name: str) -> None:
    """Find them and write them beside the bundled generator `name`."""
    click.echo(f"directions of {name}")
    generator, judge = load_generator(name), load_judge("portraits")
    found = [*hyperplanes(generator, judge), *learned(generator, judge)]
    found = [replace(direction, about=direction.about | {"licence": "Apache-2.0"}) for direction in found]
    save_directions(BUNDLED / name / "directions.safetensors", found)


def hyperplanes(generator: Generator, judge: Judge) -> Iterator[Direction]:
    space = EditingSpace("p-norm", generator, given_or_found(PNORM, generator)[0])
    about = {"judge": judge_name(judge), "samples": SAMPLES}
    codes = space.sample(SAMPLES, SEED)
    labelled = read_labels(generator, codes, judge, judge.attributes, judge.binary_attributes, **about)
    for (first, last), names in HYPERPLANES.items():
        settings = {"condition": "none", "layers": range(first, last + 1), "seed": SEED}
        for direction in find_interfacegan(labelled, space, names=names.split(), **settings):
            yield in_attribute_units(direction, generator, judge)


@torch.no_grad()
def in_attribute_units(direction: Direction, generator: Generator, judge: Judge) -> Direction:
    """So long that the attribute answers by `ANSWER` of its deviation in samples: one of the latents is too short for
    what is there in one sample of three, and not there in the others.
    """
    column = judge.attributes.index(direction.name)
    start = GeneratorInputs(generator.broadcast(sample_w(generator, SEED, ASKED)))
    spread = judge(generator.synthesis(start))[0][:, column].std()
    for length in LENGTHS:
        longer = replace(direction, vector=length * direction.vector)
        more, less = (judge(generator.synthesis(longer.edit(start, s)))[0][:, column].mean() for s in (1.0, -1.0))
        response = float((more - less) / 2 / spread)
        if response >= ANSWER:
            break
    return replace(longer, about=direction.about | {"unit": "attribute", "length": length, "response": response})


def learned(generator: Generator, judge: Judge) -> Iterator[Direction]:
    space = EditingSpace("w+", generator)
    for (first, last), names in LEARNED.items():
        for attribute in names.split():
            click.echo(f"direction {attribute}")
            layers = range(first, last + 1)
            yield from find_ganalyze(space, judge, names=[attribute], layers=layers, seed=SEED)
