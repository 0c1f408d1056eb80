"""Every interface of latentopt on one page. B images, L = num_ws, C = w_dim; images are [-1,1].

    Initializer       target            -> GeneratorInputs
    Parameterization  GeneratorInputs  <-> variables
    Generator         GeneratorInputs   -> image
    Operator          image             -> measurement
    Term              view              -> [B]
    Optimizer         variables, gradients, loss -> variables
    Refiner           target, GeneratorInputs, edited -> GeneratorInputs
    FlowTeacher       image, edited image -> flow
    FaceDetector      photograph -> faces

Plug-ins hold constants; what changes is in the loop's State. Their constructors take the generator (and the target
where they need it), then keyword-only options: those options are the keys of their table in a recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from latentopt.types import Beginning, Face, GeneratorInputs, Variables, View


@runtime_checkable
class Generator(Protocol):
    """A pretrained generator of any family: all that the rest of latentopt may ask of one.

    name: for people; source: what `--network` takes to load it; card: what is known about the training; notes: what the
    file lacked, and what was put in its place.
    """

    family: str  # such as "StyleGAN2"
    name: str
    source: str
    card: dict[str, object]
    notes: tuple[str, ...]

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the image."""

    @property
    def img_channels(self) -> int: ...
    @property
    def num_ws(self) -> int: ...
    @property
    def w_dim(self) -> int: ...
    @property
    def z_dim(self) -> int: ...
    @property
    def c_dim(self) -> int:
        """Number of labels; 0 for a generator without."""

    @property
    def w_avg(self) -> Tensor:
        """The mean of w, [C]."""

    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> torch.dtype:
        """The type that most of the synthesis runs in."""

    @property
    def architecture(self) -> dict[str, object]:
        """What `latentopt info` tells of this family's configuration, plain data."""

    @property
    def fingerprint(self) -> str:
        """Identifies the weights, whatever the file format and the device."""

    @property
    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """{layer: size of its noise map}, from coarse to fine; empty for a family without noise."""

    @property
    def noise_const(self) -> dict[str, Tensor]:
        """{layer: [1,1,h,w]}, the noise maps stored with the weights."""

    @property
    def layers(self) -> dict[str, int]:
        """The modulated layers, those that `styles` may replace, from coarse to fine, each with its row of ws."""

    @property
    def activations(self) -> dict[str, int]:
        """What `features` captures and `residuals` are added to, coarse to fine, each with the last row of ws in it."""

    @property
    def convolutions(self) -> dict[str, str]:
        """{layer: name in `tunable` of its weight} of the convolutions, coarse to fine; those to colours left out."""

    @property
    def tunable(self) -> dict[str, tuple[int, ...]]:
        """{weight: shape} of all that `GeneratorInputs.deltas` may change."""

    @property
    def takes_transform(self) -> bool:
        """Whether `GeneratorInputs.transform` moves its pictures; where not, it is refused."""

    @property
    def placing(self) -> Set[str]:
        """The weights of `tunable` that say where a picture lies: where all are tuned, these stay as they are."""

    def row_of(self, name: str) -> int | None:
        """The row of ws that drives a layer, an activation or one of their weights; None for a name of another kind."""

    def shown(self, activation: str) -> float:
        """The middle part of an activation's width and height that the picture shows, from above 0 to 1."""

    def weight(self, name: str) -> Tensor:
        """A tunable weight as it is."""

    def affine(self, layer: str) -> Tensor:
        """The matrix [I,C] that makes a modulated layer's style of w, learning-rate gains left out."""

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z [B,Z], labels c [B,K] -> w [B,C]."""

    def inverse_mapping(self, w: Tensor, c: Tensor | None = None) -> Tensor:
        """w [B,C] -> the z [B,Z], up to its length, that is mapped to it: exact for a w that `mapping` made."""

    def broadcast(self, w: Tensor) -> Tensor:
        """One w for every layer: [B,C] -> ws [B,L,C]."""

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """`w_avg + psi (w - w_avg)` in the first `cutoff` rows (all by default): [B,C] -> ws [B,L,C]."""

    def begin(self, inputs: GeneratorInputs, changing: Set[str], noise_mode: str = "const") -> Beginning | None:
        """What can be drawn of `inputs` once and for all while only the entries `changing` of them change (names as
        `GeneratorInputs.changed` gives them); None where that is nothing, or the family keeps nothing.
        """

    def synthesis(
        self,
        inputs: GeneratorInputs,
        noise_mode: str = "const",
        rng: torch.Generator | None = None,
        beginning: Beginning | None = None,
    ) -> Tensor:
        """-> image [B,img_channels,H,W], nominally in [-1,1], not clamped.

        `rng` draws the noise of noise_mode "random". With a `beginning`, the drawing goes on from there.
        Raises UsageError for inputs that this family cannot draw.
        """

    def styles(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        """{layer: [B,I] or [B,O,I]}: the styles that `inputs` are drawn with."""

    def features(
        self, inputs: GeneratorInputs, capture: Sequence[str], noise_mode: str = "const"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-> image and the named activations [B,c,h,w]."""

    def activations_of(
        self, inputs: GeneratorInputs, capture: Sequence[str], noise_mode: str = "const"
    ) -> dict[str, Tensor]:
        """The named activations [B,c,h,w] alone: no image, and nothing that comes after the last of them."""

    def set_precision(self, dtype: torch.dtype | None) -> Self:
        """Run what allows it in `dtype`; None is float32 throughout."""

    def set_memory_format(self, memory_format: torch.memory_format) -> Self:
        """Lay out activations and weights as `torch.channels_last` or `torch.contiguous_format`."""

    @property
    def low_memory(self) -> bool:
        """Whether large layers are computed again for the gradient instead of kept: less memory, a third more time."""

    def set_low_memory(self, on: bool) -> Self:
        """Switch that on or off."""

    @property
    def gradient_bytes(self) -> int:
        """About what drawing one image takes for as long as its gradient is wanted."""

    def compile(self) -> object:
        """Compile the synthesis with torch.compile, from its first call on."""

    def in_float32(self) -> Self:
        """This generator, or a copy of it that runs in float32 throughout."""

    def with_weights(self, added: Mapping[str, Tensor]) -> Self:
        """A float32 copy with `added` {weight: [*shape]} on top of its weights; it has a fingerprint of its own."""


class Plugin:
    """What every plug-in may declare, as literals in its class body: the recipe layer reads them from the source text,
    without importing it.

    owns      the fields of GeneratorInputs that a space writes; two that own the same field are not joined
    reads     {option: kind of file}: the option names a file that is read. Left out, the file of that kind that
              belongs to the generator is looked for (`latentopt.registry.FILES` has the kinds); results depend on its
              contents
    reads_if  {option: other options}: without a name for it, that file is looked for only where one of these is not at
              its default
    shares    the option that makes all images share the variables
    rank      the option that bounds the rank of what a space adds to a weight
    recipe    the recipe that goes with the space where only the space is named
    exact     whether a space holds every value of the fields that it owns
    varies    whether a term's value at the same point differs from step to step
    compares  whether an optimiser compares the losses of different steps, so that nothing but the variables may change
              them
    runs_code whether an operator imports and runs what an option names: a recipe from a file must not have it
    examples  tables of options that the laws of its kind are tried with
    """

    owns: Set[str] = frozenset()
    reads: ClassVar[Mapping[str, str]] = {}
    reads_if: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    shares: ClassVar[str] = ""
    rank: ClassVar[str] = ""
    recipe: ClassVar[str] = ""
    exact: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    runs_code: ClassVar[bool] = False
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({},)


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


class Refiner(Plugin, ABC):
    """Adds to an activation what the latents could not say of the target, fitted anew to every edit of them.

    layer   the activation whose residuals it makes; inputs that have some there already are refused (UsageError)
    record  what a result remembers of it: at least `fingerprint`, which identifies its weights
    """

    layer: str

    @property
    @abstractmethod
    def record(self) -> Mapping[str, object]: ...

    @abstractmethod
    def __call__(
        self, target: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs, noise_mode: str = "const"
    ) -> GeneratorInputs:
        """`edited` with `residuals` at `layer`. Without an edit, `edited` is `inputs`.

        target [B or 1,C,H,W] in [-1,1], and `inputs`, of as many images, which stand for it; `edited` of B images.
        They may lie on any device. noise_mode: what they are drawn with.
        """

    def pictures(
        self, target: Tensor, inputs: GeneratorInputs, edited: GeneratorInputs, noise_mode: str = "const"
    ) -> dict[str, Tensor]:
        """Pictures [B,3,h,w] in [-1,1] of how it went, by name, for people."""
        return {}


class FlowTeacher(Plugin, ABC):
    """Finds where things went between two pictures. Its constructor takes the generator."""

    @abstractmethod
    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """Pictures [B,C,H,W] in [-1,1] twice -> flow [B,2,H,W], x and y in pixels.

        What is at p after was at p + flow(p) before. Exactly zero where both are the same picture.
        """


class FaceDetector(Plugin, ABC):
    """Finds the faces in a photograph. Its constructor takes nothing but options."""

    @abstractmethod
    def __call__(self, picture: Tensor) -> list[Face]:
        """The faces in a picture [3,H,W] in [-1,1], on the CPU; the largest first."""
