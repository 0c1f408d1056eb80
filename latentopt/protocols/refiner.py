"""What adds to a picture that which the latents could not say, and what finds the flow that it learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from latentopt.protocols.plugin import Plugin
from latentopt.types import GeneratorInputs


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
