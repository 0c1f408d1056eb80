"""Noise maps as variables, held at mean 0 and standard deviation 1 (Karras et al. 2020, appendix D)."""

from __future__ import annotations

from torch import Tensor

from latentopt.protocols import Generator, Parameterization
from latentopt.types import GeneratorInputs, Variables


class NoiseMaps(Parameterization):
    """One variable [B,1,h,w] for each layer whose map is at most `max_resolution` pixels wide (all by default).

    Layers without a map in the inputs start from the generator's stored one, normalised.
    """

    owns = {"noise"}
    exact = True  # every normalised map
    examples = ({}, {"max_resolution": 8})

    def __init__(self, generator: Generator, *, max_resolution: int | None = None) -> None:
        sizes = generator.noise_shapes
        self.layers = [name for name, size in sizes.items() if max_resolution is None or max(size) <= max_resolution]
        self.stored = generator.noise_const

    def encode(self, inputs: GeneratorInputs) -> Variables:
        given, batch = inputs.noise or {}, len(inputs)
        variables = {}
        for name in self.layers:
            noise = given.get(name, self.stored[name]).detach()
            variables[name] = noise.expand(batch, *noise.shape[1:]).clone()
        self.project_(variables)
        return variables

    def decode(self, variables: Variables, inputs: GeneratorInputs) -> GeneratorInputs:
        return inputs.replace(noise={**(inputs.noise or {}), **variables})

    def project_(self, variables: Variables) -> None:
        for noise in variables.values():
            noise.copy_(_normalize(noise))


def _normalize(noise: Tensor) -> Tensor:
    """[B,1,h,w] to mean 0 and root mean square 1 for each image."""
    noise = noise - noise.mean(dim=(1, 2, 3), keepdim=True)
    return noise * noise.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12).rsqrt()
