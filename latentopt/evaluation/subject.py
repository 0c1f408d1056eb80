"""What an evaluation looks at: the results, and with what they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.evaluation.image_metrics import on_levels
from latentopt.evaluation.measure import Measure
from latentopt.evaluation.rendering import draw, draw_samples
from latentopt.evaluation.sliced_wasserstein import picture_swd
from latentopt.judge.protocol import AttributeJudge, features, judge_name, log_odds, plain, read
from latentopt.protocols import Generator
from latentopt.results.inversion import Inversion
from latentopt.results.redrawing import Redraw, redraws
from latentopt.statistics.pnorm import PNorm
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

Partners = Literal["samples", "embeddings"]

SAMPLES_SEED = 77  # of the generator's own pictures, apart from the seeds of users


class LatentEdit(Protocol):
    """Changes latents, as `latentopt.editing.direction.Direction` does, by standard deviations of samples."""

    def edit(self, inputs: GeneratorInputs, strength: float) -> GeneratorInputs: ...


class PictureDistance(Protocol):
    """A distance of pictures. `name` tells the network, the hash of its weights, and the size of its pictures."""

    name: str

    def __call__(self, first: Tensor, second: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Amounts:
    """How much is drawn: more makes the intervals narrower and takes longer.

    samples: of the generator itself, the scale and the reference of responses; paths: of each kind, an image;
    steps: pictures an interpolation; partners: images or samples that each image is interpolated and mixed with;
    lec: images that are inverted again; corruption: pictures of each tuned image.
    """

    samples: int = 64
    paths: int = 4
    steps: int = 5
    partners: int = 2
    lec: int = 4
    corruption: int = 200

    def __post_init__(self) -> None:
        for name, least in (("samples", 8), ("paths", 1), ("steps", 1), ("partners", 1), ("lec", 0), ("corruption", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass
class Found:
    """What one part of an evaluation found; `rows` has an entry an image, or none at all."""

    measures: list[Measure] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Subject:
    """N results of one generator and the instruments; what several parts need is drawn once.

    judge: None where no judge knows the domain; `extract` gives the features of set distances in any case. distances:
    perceptual ones by name, at least one. pose: the attribute and direction of Table 4. partners: with what images are
    interpolated, the generator's samples or each other.
    """

    results: Sequence[Inversion]
    generator: Generator
    judge: AttributeJudge | None
    extract: AttributeJudge
    directions: Mapping[str, LatentEdit]
    pnorm: PNorm | None
    distances: Mapping[str, PictureDistance]
    amounts: Amounts
    seed: int = 0
    pose: str = "yaw"
    partners: Partners = "samples"
    invert: Callable[[Tensor, Sequence[int]], Tensor] | None = None

    @cached_property
    def inputs(self) -> list[GeneratorInputs]:
        """One image's each, on the generator's device, without what refiners added: `redraws` add it to edits."""
        return [redraw.base for redraw in self.redraws]

    @cached_property
    def redraws(self) -> list[Redraw]:
        """What edits of each image are drawn through."""
        found = redraws(self.results, self.generator)
        return [replace(one, base=one.base.to(self.generator.device)) for one in found]

    @cached_property
    def ws(self) -> Tensor:
        """[N,L,C]"""
        return torch.cat([inputs.ws for inputs in self.inputs])

    @cached_property
    def targets(self) -> Tensor:
        """[N,3,H,W] in [-1,1] on 8-bit levels."""
        return on_levels(torch.stack([result.target for result in self.results])).to(self.generator.device)

    @cached_property
    def images(self) -> Tensor:
        """The saved pictures [N,3,H,W]."""
        return on_levels(torch.stack([result.image for result in self.results])).to(self.generator.device)

    @cached_property
    def samples(self) -> Tensor:
        """Latents of the generator's own samples [S,L,C]."""
        return self.generator.broadcast(sample_w(self.generator, SAMPLES_SEED, self.amounts.samples))

    @cached_property
    def sample_readings(self) -> Tensor:
        """[S,A]"""
        return read(self.reader, draw_samples(self.generator, self.samples))

    @cached_property
    def scales(self) -> Tensor:
        """Standard deviation [A] of each attribute over the generator's own pictures: what a change of 1 means."""
        columns = log_odds(self.reader, self.sample_readings).T
        return torch.stack([column[column.isfinite()].std() for column in columns]).clamp(min=1e-6)

    @cached_property
    def readings(self) -> Tensor:
        """[N,A] of the saved pictures."""
        return read(self.reader, self.images)

    def read(self, images: Tensor) -> Tensor:
        """[V,A] of pictures [V,3,H,W]."""
        return read(self.reader, images)

    @property
    def labelled(self) -> dict[str, tuple[LatentEdit, int]]:
        """The directions that are named after an attribute: {attribute: (direction, the attribute's column)}.

        `hair-length` and `hair_length` are one name.
        """
        reads = {} if self.judge is None else {plain(name): (name, k) for k, name in enumerate(self.judge.attributes)}
        named = {plain(name): edit for name, edit in self.directions.items()}
        return {reads[name][0]: (edit, reads[name][1]) for name, edit in named.items() if name in reads}

    def draw(self, i: int, ws: Tensor) -> Tensor:
        """Pictures [V,3,H,W] of image i with latents ws [V,L,C]."""
        return draw(self.generator, self.inputs[i], ws, self.noise_mode(i), redraw=self.redraws[i])

    def noise_mode(self, i: int) -> str:
        """That of the result; random noise is left at its constant, or no picture could be drawn twice."""
        mode = self.results[i].manifest.get("noise_mode", "const")
        return "const" if mode == "random" else mode

    @cached_property
    def extractor(self) -> str:
        """Of set distances, with the size that pictures are brought to."""
        side = getattr(getattr(self.extract, "config", None), "resolution", None)
        resized = "" if side is None or self.generator.resolution == (side, side) else f", resized to {side}x{side}"
        return judge_name(self.extract) + resized

    @property
    def reader(self) -> AttributeJudge:
        """The judge, for what cannot be measured without one. Raises UsageError where none knows the domain."""
        if self.judge is None:
            raise UsageError("no judge reads this generator's domain; name one with --judge")
        return self.judge

    def features(self, images: Tensor) -> Tensor:
        """[V,F]"""
        return features(self.extract, images)

    @cached_property
    def target_features(self) -> Tensor:
        """[N,F]"""
        return self.features(self.targets)

    @cached_property
    def swd_floor(self) -> float:
        """What so few pictures give by chance: the targets against themselves, at other places."""
        return picture_swd(self.targets, self.targets, seed=self.seed, splits=0)[0]
