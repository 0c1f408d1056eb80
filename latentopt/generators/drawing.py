"""What drawing is in every family: inputs are checked, residuals are added, and what is asked for is kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor

from latentopt.types import REPLACES, GeneratorInputs, LayerTensors

NOISE_MODES = ("const", "random", "none")


def check_drawable(inputs: GeneratorInputs, num_ws: int, noise_mode: str) -> None:
    """Raise ValueError for latents of another shape and a mode that there is not."""
    if noise_mode not in NOISE_MODES:
        raise ValueError(f"noise_mode {noise_mode!r} is not one of {', '.join(NOISE_MODES)}")
    if inputs.ws.ndim != 3 or inputs.ws.shape[1] != num_ws:
        raise ValueError(f"ws has shape {tuple(inputs.ws.shape)}; this generator takes [B,{num_ws},w_dim]")


@dataclass(frozen=True)
class Captured:
    """residuals: what `GeneratorInputs.residuals` holds; wanted: names of the activations that `features` keeps."""

    residuals: LayerTensors
    wanted: Collection[str]
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything wanted is there."""
        return len(self.features) == len(set(self.wanted))

    def finish(self, name: str, x: Tensor) -> Tensor:
        """The activation `name` [B,c,h,w] as it goes on."""
        if (whole := self.residuals.get(REPLACES + name)) is not None:
            x = whole.to(x.dtype)
        if (residual := self.residuals.get(name)) is not None:
            x = x + residual.to(x.dtype)
        if name in self.wanted:
            self.features[name] = x
        return x
