"""The networks that are trained, of either family, with random weights; and what only one of the families asks for.

Source: Karras et al. 2020 (StyleGAN2); Karras et al. 2021, section 3.3, figure 4 and appendix F (StyleGAN3 T and R).
"""

from __future__ import annotations

import torch

from latentopt.generators.network import GeneratorNetwork
from latentopt.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from latentopt.generators.stylegan3 import StyleGAN3
from latentopt.generators.stylegan3_config import StyleGAN3Config
from latentopt.training.generator_settings import GeneratorTraining
from latentopt.types import GeneratorInputs

TrainedGenerator = StyleGAN2 | StyleGAN3
TrainedConfig = StyleGAN2Config | StyleGAN3Config
MAGNITUDE_IMAGES = 20_000  # half-life of the magnitudes of StyleGAN3's activations: 0.999 a step of 32
WIDER = 2  # R's layers have so many times T's channels: its kernels are 1x1


def generator_config(settings: GeneratorTraining) -> TrainedConfig:
    """The architecture that settings describe."""
    s = settings
    if s.family == "stylegan2":
        return StyleGAN2Config(s.w_dim, s.w_dim, s.channels, mapping_layers=s.mapping_layers)
    radial = s.family == "stylegan3-r"
    wider = WIDER if radial else 1
    return StyleGAN3Config(
        s.w_dim,
        s.w_dim,
        s.resolution,
        StyleGAN3Config.planned(s.resolution, wider * s.channel_base, wider * s.channel_max, s.layers),
        mapping_layers=s.mapping_layers,
        conv_kernel=1 if radial else 3,
        radial_filters=radial,
    )


def random_generator(settings: GeneratorTraining) -> TrainedGenerator:
    """A generator with the weights that the seed of the settings gives, on the CPU: the same for every device."""
    torch.manual_seed(settings.seed)
    return generator_config(settings).build()


def family_of(generator: TrainedGenerator) -> str:
    """The family by the name that settings give it; T and R are told apart by their kernels."""
    config = generator.config
    if isinstance(config, StyleGAN2Config):
        return "stylegan2"
    return "stylegan3-r" if config.conv_kernel == 1 else "stylegan3-t"


def follow_magnitudes(generator: GeneratorNetwork, batch: int) -> None:
    """Have a StyleGAN3 follow the magnitudes of its activations, as a training with such batches does."""
    if isinstance(generator, StyleGAN3):
        generator.synthesis.magnitude_decay = 0.5 ** (batch / MAGNITUDE_IMAGES)


@torch.no_grad()
def settle_magnitudes(generator: GeneratorNetwork, batch: int = 32) -> None:
    """Set the magnitudes of a StyleGAN3's activations to those of a batch: at 1, random weights draw flat pictures."""
    if isinstance(generator, StyleGAN3):
        kept, generator.synthesis.magnitude_decay = generator.synthesis.magnitude_decay, 0.0
        w = generator.mapping(torch.randn(batch, generator.z_dim, device=generator.device))
        generator.synthesis(GeneratorInputs(generator.broadcast(w)))
        generator.synthesis.magnitude_decay = kept


def hold_noise(generator: GeneratorNetwork, least: float) -> None:
    """Noise strengths that are weaker than `least` rise to that, with their sign. A StyleGAN3 has none."""
    if least and isinstance(generator, StyleGAN2):
        for layer in generator.synthesis.layers.values():
            strength = layer.noise_strength.data
            strength.copy_(torch.where(strength < 0, strength.clamp_max(-least), strength.clamp_min(least)))
