"""The plug-ins that a stage of a recipe is made of: its space, start, terms, operator and optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from latentopt.protocols.plugin import Plugin
from latentopt.types import GeneratorInputs, Variables, View


class Parameterization(Plugin, ABC):
    """A lens on GeneratorInputs: reads free variables out of them and writes them back.

    Laws: decode(encode(x), x) is idempotent, and exact where the space can represent x; fields that are not in `owns`
    come back as the same objects; `project_` is idempotent; everything commutes with picking images out of the batch.

    `distance` names the image distance that the coordinates were measured with, if any: a stage's terms must have it.
    """

    distance: str = ""

    @abstractmethod
    def encode(self, inputs: GeneratorInputs) -> Variables:
        """The variables, first dimension B, that stand for `inputs` (or the nearest that the space holds)."""

    @abstractmethod
    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        """`inputs` with the owned fields replaced by what `variables` say. Differentiable."""

    def project_(self, variables: Variables) -> None:
        """Pull the variables back, in place, into what the space allows; called after every step."""

    def penalty(self, variables: Variables) -> Tensor | None:
        """The prior that belongs to the coordinates, weighted: [B], or None where there is none."""
        return None

    def in_float64(self) -> Parameterization:
        """The same space for a map there and back where rounding shows; itself where it has nothing more exact."""
        return self


class Initializer(Plugin, ABC):
    """Where an optimisation starts."""

    @abstractmethod
    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        """target [B,3,H,W]; one seed an image, so that a start does not depend on its companions."""

    def of_measurement(
        self, measured: Tensor, operator: Operator, picture: Tensor, seeds: Sequence[int]
    ) -> GeneratorInputs:
        """Where to start for what `operator` measured [B,...]; `picture` [B,C,H,W] shows it at the generator's size."""
        return self(picture, seeds)


class Term(Plugin, ABC):
    """One piece of the loss. What depends on the target alone is computed once, in the constructor.

    `network` names the network that a term measures with, and its weights: it goes into the result's record.
    `distance` names the image distance by it, where a term is one: the network and the size of image that it compares.
    `activations` names what it looks at of the generator, as `View.features`; `sees_image` is false where it does not
    look at the image.
    """

    network: str = ""
    distance: str = ""
    activations: Sequence[str] = ()
    sees_image: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, view: View) -> Tensor:
        """[B], the unweighted value for each image."""

    def follow(self, view: View) -> Variables:
        """What it remembers of each image from this measurement on, {name: [B,...]}; entries that stay may be left out.

        Called before the term itself, without gradients. The loop's State keeps it, and `view.remembered` has it: empty
        at the first measurement, when it must name every entry.
        """
        return {}

    def coordinates(self, image: Tensor) -> list[Tensor]:
        """Of a term with a `distance`: tensors [B,...] whose squared differences between two images add up to it."""
        return []

    @abstractmethod
    def index(self, rows: Tensor) -> Term:
        """The same term for the images in `rows`: whatever it holds of the targets is picked.

        A term that holds nothing of them returns itself.
        """


class Source(Protocol):
    """What an operator must know of the images that it measures: a generator's, or another operator's measurements."""

    @property
    def resolution(self) -> tuple[int, int]: ...
    @property
    def img_channels(self) -> int: ...
    @property
    def device(self) -> torch.device: ...


class Operator(Plugin, ABC):
    """What is measured of an image: terms compare the operator of the drawn image with a measurement.

    Its constructor takes the `Source` of the images, then keyword-only options. `linear` says whether it is a linear
    map of the image.
    """

    linear: bool = False

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """image [B,C,H,W] -> measurement [B,...]; differentiable, each image by itself, nothing at random."""

    def drawn(self, image: Tensor, seeds: Sequence[int], step: int) -> Tensor:
        """As a step of the optimisation sees it: with what is random, each image's by its own seed and the step."""
        return self(image)

    def simulate(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """The true measurement, as a device makes it: it need not be differentiable."""
        return self.drawn(image, seeds, -1)

    def counted(self, measured: Tensor) -> Tensor:
        """A measurement [B,...] without the parts of it that say nothing of the image."""
        return measured

    def shown(self, measured: Tensor) -> Tensor:
        """A measurement [B,...] as starts that look at pictures see it: its parts where they are in the image."""
        return measured

    def index(self, rows: Tensor) -> Operator:
        """The same operator for the images in `rows`, where it holds something of each."""
        return self


IMAGES = "images"  # what an optimiser remembers of an image as a whole, beside what it remembers of each variable

Memory = dict[str, dict[str, Tensor]]
"""What an optimiser remembers, in the loop's State: tables by variable, and by IMAGES. Tensors whose first dimension is
that of the variable (by IMAGES: the number of images, or 1 where they share all variables) belong to its rows; zeros
must mean that nothing is remembered of a row, since that is what a row is set to after a loss that is not finite.
"""


class Optimizer(Plugin, ABC):
    """How the variables move after a measurement; every image by itself. Its constructor takes the generator.

    A function that gets torch's parameter groups and makes an elementwise optimiser of torch is an optimiser as well.

    grows   tables of its memory whose second dimension begins with 0 and grows from step to step
    """

    grows: Set[str] = frozenset()

    @abstractmethod
    def step(
        self,
        variables: Variables,
        gradients: Variables,
        loss: Tensor,
        memory: Memory,
        lr: Mapping[str, float],
        scale: Tensor,
    ) -> None:
        """Move `variables` in place, and change `memory` (empty at first) in place.

        loss   [b], of the rows of the variables; [1] where all images share them. Infinite where a measurement was not
               finite: such a row must not move
        lr     the learning rate of each variable, at this step
        scale  [b] or [1], what the rates of a row are multiplied with
        """
