"""latentopt: StyleGAN inversion, optimisation first. Names are imported when they are first used."""

from __future__ import annotations

import importlib

EXPORTS = {
    "load_generator": "latentopt.checkpoints.networks",
    "load_discriminator": "latentopt.checkpoints.networks",
    "save_generator": "latentopt.checkpoints.networks",
    "invert": "latentopt.api",
    "tune": "latentopt.api",
    "Delta": "latentopt.checkpoints.delta",
    "Inversion": "latentopt.results.inversion",
    "Recipe": "latentopt.recipe.recipe",
    "GeneratorInputs": "latentopt.types",
    "PNorm": "latentopt.statistics.pnorm",
    "read_image": "latentopt.pictures.images",
}
__all__ = list(EXPORTS)


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})


def __getattr__(name: str) -> object:
    if name not in EXPORTS:
        raise AttributeError(f"module 'latentopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(EXPORTS[name]), name)
    globals()[name] = value
    return value
