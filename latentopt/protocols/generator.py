"""What the rest of latentopt may ask of a generator. B images, L = num_ws, C = w_dim; images are [-1,1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from latentopt.types import Beginning, GeneratorInputs


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
        """w [B,C] -> the z [B,Z], up to its length, that is mapped nearest to it.

        For a w that `mapping` made, z is nearly always mapped to w again within a few hundredths of the cloud's
        radius; it may be another z than the one that w was made of, where the network flattens what told them apart.
        """

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
