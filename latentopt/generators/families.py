"""The families of generators, imported when first used."""

from latentopt.registry import Registry

FAMILIES = Registry(
    "generator family",
    {
        "stylegan2": "latentopt.generators.stylegan2:StyleGAN2",
        "stylegan3": "latentopt.generators.stylegan3:StyleGAN3",
    },
)
