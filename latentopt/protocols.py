"""Every interface of latentopt on one page. B images, L = num_ws, C = w_dim; images are [-1,1].

    Initializer       target            -> GeneratorInputs
    Parameterization  GeneratorInputs  <-> variables
    Generator         GeneratorInputs   -> image
    Term              view              -> [B]

Plug-ins hold constants; what changes is in the loop's State. Their constructors take the generator (and the target where
they need it), then keyword-only options: those options are the keys of their table in a recipe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from latentopt.types import GeneratorInputs, Variables, View


@runtime_checkable
class Generator(Protocol):
    """A pretrained generator. `name` is for people; `fingerprint` identifies the weights; `card` tells of the training."""

    name: str
    source: str  # what `--network` takes to load it
    card: dict[str, object]

    @property
    def resolution(self) -> tuple[int, int]: ...
    @property
    def num_ws(self) -> int: ...
    @property
    def w_dim(self) -> int: ...
    @property
    def z_dim(self) -> int: ...
    @property
    def c_dim(self) -> int: ...
    @property
    def w_avg(self) -> Tensor: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def noise_shapes(self) -> dict[str, tuple[int, int]]: ...
    @property
    def noise_const(self) -> dict[str, Tensor]: ...
    @property
    def tunable(self) -> dict[str, tuple[int, ...]]: ...
    @property
    def fingerprint(self) -> str: ...

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """[B,Z] -> w [B,C]."""

    def broadcast(self, w: Tensor) -> Tensor:
        """[B,C] -> ws [B,L,C]."""

    def synthesis(self, inputs: GeneratorInputs, noise_mode: str = "const") -> Tensor:
        """-> image [B,3,H,W], not clamped."""

    def features(
        self, inputs: GeneratorInputs, capture: Sequence[str], noise_mode: str = "const"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-> image and the named activations."""


class Parameterization(ABC):
    """A lens on GeneratorInputs: reads free variables out of them and writes them back.

    Laws: decode(encode(x), x) is idempotent, and exact where the space can represent x; fields that are not in `owns`
    come back as the same objects; `project_` is idempotent; everything commutes with picking images out of the batch.
    """

    owns: frozenset[str] = frozenset({"ws"})

    @abstractmethod
    def encode(self, inputs: GeneratorInputs) -> Variables:
        """The variables, first dimension B, that stand for `inputs` (or the nearest that the space holds)."""

    @abstractmethod
    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        """`inputs` with the owned fields replaced by what `variables` say. Differentiable."""

    def project_(self, variables: Variables) -> None:  # noqa: B027
        """Pull the variables back, in place, into what the space allows; called after every step."""

    def penalty(self, variables: Variables) -> Tensor | None:
        """The prior that belongs to the coordinates, weighted: [B], or None where there is none."""
        return None


class Initializer(ABC):
    """Where an optimisation starts."""

    @abstractmethod
    def __call__(self, target: Tensor, seeds: Sequence[int]) -> GeneratorInputs:
        """target [B,3,H,W]; one seed an image, so that a start does not depend on its companions."""


class Term(ABC):
    """One piece of the loss. What depends on the target alone is computed once, in the constructor.

    `network` names the network that a term measures with, and its weights: it goes into the result's record.
    """

    network: str = ""

    @abstractmethod
    def __call__(self, view: View) -> Tensor:
        """[B], the unweighted value for each image."""

    def index(self, rows: Tensor) -> Term:
        """The same term for the images in `rows` (its target-side tensors picked)."""
        return self
