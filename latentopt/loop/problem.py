"""What is fixed while a stage runs: the images, the generator, the lens, the terms, and the loss they make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentopt.devices import Profile
from latentopt.errors import UsageError
from latentopt.protocols import Generator, Operator, Optimizer, Parameterization, Term
from latentopt.recipe.stage import Stage
from latentopt.statistics.streams import step_stream
from latentopt.types import Beginning, GeneratorInputs, LayerTensors, Variables, View

Pieces = dict[frozenset[str] | None, Tensor]
"""The loss [B] in pieces, by the spaces whose variables each moves; None: all."""


@dataclass(frozen=True)
class Objective:
    """Weighted terms by name. `moves`: the spaces that a term moves, where it does not move all."""

    terms: dict[str, tuple[float, Term]]
    moves: dict[str, frozenset[str]] = field(default_factory=dict)

    def __call__(self, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total [B] and the unweighted parts, [B] each."""
        parts = self.parts(view)
        return total(self.pieces(parts)), parts

    def parts(self, view: View) -> dict[str, Tensor]:
        """What each term measures, unweighted, [B]."""
        return {name: term(own_view(view, name)) for name, (_, term) in self.terms.items()}

    @torch.no_grad()
    def follow(self, view: View) -> Variables:
        """What the terms remember anew, `term/entry`: those entries that change."""
        found = {name: term.follow(own_view(view, name)) for name, (_, term) in self.terms.items()}
        return {f"{name}/{key}": value for name, entries in found.items() for key, value in entries.items()}

    @property
    def remembers(self) -> bool:
        """Whether some term does."""
        return any(type(term).follow is not Term.follow for _, term in self.terms.values())

    @property
    def activations(self) -> list[str]:
        """What the terms look at of the generator."""
        return sorted({name for _, term in self.terms.values() for name in term.activations})

    @property
    def sees_image(self) -> bool:
        return any(term.sees_image for _, term in self.terms.values())

    def pieces(self, parts: Mapping[str, Tensor]) -> Pieces:
        """The parts weighted, and added up where they move the same."""
        pieces: Pieces = {}
        for name, (weight, _) in self.terms.items():
            spaces, weighted = self.moves.get(name), weight * parts[name]
            pieces[spaces] = pieces[spaces] + weighted if spaces in pieces else weighted
        return pieces

    @property
    def networks(self) -> dict[str, str]:
        """The networks that terms measure with, and their weights' hash."""
        return {name: term.network for name, (_, term) in self.terms.items() if term.network}

    @property
    def distances(self) -> dict[str, Term]:
        """The terms that are an image distance by a network, by the names of the distances."""
        return {term.distance: term for _, term in self.terms.values() if term.distance}

    def index(self, rows: Tensor) -> Objective:
        return Objective({name: (weight, term.index(rows)) for name, (weight, term) in self.terms.items()}, self.moves)


def own_view(view: View, name: str) -> View:
    """The view of one term: of what is remembered, its own."""
    own = {k.partition("/")[2]: v for k, v in view.remembered.items() if k.partition("/")[0] == name}
    return replace(view, remembered=own)


def total(pieces: Pieces) -> Tensor:
    """[B]."""
    first, *others = pieces.values()
    return sum(others, first)


@dataclass(frozen=True)
class Problem:
    """What is fixed while a stage runs on B images. `start` also carries the fields that the lens does not own."""

    generator: Generator
    target: Tensor  # [B,3,H,W]
    start: GeneratorInputs
    lens: Parameterization
    objective: Objective
    stage: Stage
    seeds: tuple[int, ...]
    optimizer: Optimizer
    measured: Tensor  # [B,...], what the terms compare with: the target itself, or what an operator makes of it
    operator: Operator | None = None
    mask: Tensor | None = None  # [B,1,H,W], of the pixels that the terms compare
    rates: dict[str, float] = field(default_factory=dict)  # learning rates by prefix of the variable's name
    w_std: float = 0.0  # radius of the cloud of w, the unit of the jitter
    beginning: Beginning | None = None  # of the images of `start`: what no variable changes
    profile: Profile = field(default_factory=lambda: Profile(on=False))

    def index(self, rows: Tensor) -> Problem:
        """The same problem for the images in `rows`."""
        return replace(
            self,
            target=self.target[rows],
            start=self.start.index(rows),
            objective=self.objective.index(rows),
            seeds=tuple(self.seeds[i] for i in rows.tolist()),
            mask=None if self.mask is None else self.mask[rows],
            measured=self.measured[rows],
            operator=None if self.operator is None else self.operator.index(rows),
            beginning=None if self.beginning is None else self.beginning.index(rows),
        )

    def jitter_std(self, step: int) -> float:
        """Standard deviation of the noise on ws; 0 once it has died away, and for the closing measurement."""
        jitter = self.stage.jitter
        if jitter is None or step >= self.stage.steps:
            return 0.0
        return self.w_std * jitter.scale * max(0.0, 1.0 - self.t(step) / jitter.ramp) ** 2

    def lr(self, name: str) -> float:
        """The base rate of the variable `name`."""
        return self.rates.get(name.partition("/")[0], self.stage.lr)

    def t(self, step: int) -> float:
        """The fraction of the stage that is done at `step`."""
        return step / max(self.stage.steps, 1)

    def view(self, variables: Variables, step: int, remembered: Variables) -> tuple[View, Variables]:
        """What the terms see at `step`, who remember [B,...] of the measurement before; and what they remember anew."""
        with self.profile.part("generator"):
            inputs = self.lens.decode(variables, self.start)
            image, features = self.draw(inputs, step)
        if (
            self.profile.on and image.requires_grad
        ):  # its gradient is there: the rest of the way back is the generator's
            image.register_hook(lambda gradient: self.profile.switch("generator"))
        if image.shape != self.target.shape:
            drawn, wanted = (list(x.shape[1:]) for x in (image, self.target))
            raise UsageError(f"this generator draws images {drawn}; the targets are {wanted}")
        if self.operator is not None:
            image = self.operator.drawn(image, self.seeds, step)
        about = (self.t(step), self.mask, self.seeds, step, features)
        view = View(image, self.measured, inputs, variables, *about, remembered)
        changed = self.objective.follow(view)
        return replace(view, remembered={**remembered, **changed}), changed

    def pieces(self, view: View) -> tuple[Pieces, dict[str, Tensor]]:
        """What is minimised: the terms of what is seen plus the prior of the coordinates; and its parts [B]."""
        parts = self.objective.parts(view)
        pieces = self.objective.pieces(parts)
        penalty = self.lens.penalty(view.variables)
        if penalty is None:
            return pieces, parts
        penalty = penalty.expand(len(view.image))  # one of all images, where they share their variables
        pieces[None] = pieces[None] + penalty if None in pieces else penalty
        return pieces, {**parts, "penalty": penalty}

    def loss(self, variables: Variables, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss [B] and its parts, where nothing is remembered."""
        pieces, parts = self.pieces(self.view(variables, step, {})[0])
        return total(pieces), parts

    def draw(self, inputs: GeneratorInputs, step: int) -> tuple[Tensor, LayerTensors]:
        """The image [B,3,H,W] of `inputs` with the stage's jitter and noise at `step`, and the activations that terms
        look at. Where no term looks at the image, the target stands for it.
        """
        std, noise_mode = self.jitter_std(step), self.stage.noise_mode
        if std:
            inputs = inputs.replace(ws=inputs.ws + std * self.normal(step, (1, inputs.ws.shape[2])))
        if noise_mode == "random":
            inputs, noise_mode = self.with_random_noise(inputs, step), "none"
        names = self.objective.activations
        if not names:
            return self.generator.synthesis(inputs, noise_mode, beginning=self.beginning).float(), {}
        if not self.objective.sees_image:
            return self.target, self.generator.activations_of(inputs, names, noise_mode)
        image, features = self.generator.features(inputs, names, noise_mode)
        return image.float(), features

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """Normal numbers [B,*shape]; each image's depend on its own seed and on `stream` alone."""
        rows = [torch.randn(shape, generator=step_stream(seed, stream)) for seed in self.seeds]
        return torch.stack(rows).to(self.target)

    def with_random_noise(self, inputs: GeneratorInputs, step: int) -> GeneratorInputs:
        """`inputs` with a fresh noise map for every layer that has none of its own: new for each step and image."""
        shapes, given = self.generator.noise_shapes, inputs.noise or {}
        first = -1 - step * len(shapes)  # streams below zero: those from zero up are the jitter's
        fresh = {name: self.normal(first - i, (1, *size)) for i, (name, size) in enumerate(shapes.items())}
        return inputs.replace(noise={**fresh, **given})
