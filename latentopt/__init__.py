"""latentopt: StyleGAN inversion, optimisation first. Names are imported when they are first used."""

from __future__ import annotations

import importlib

EXPORTS = {
    "load_generator": "latentopt.generators.checkpoints",
    "load_discriminator": "latentopt.generators.checkpoints",
    "save_generator": "latentopt.generators.checkpoints",
    "invert": "latentopt.api",
    "tune": "latentopt.api",
    "Delta": "latentopt.delta",
    "Inversion": "latentopt.inversion",
    "Recipe": "latentopt.recipe",
    "GeneratorInputs": "latentopt.types",
    "PNorm": "latentopt.pnorm",
    "read_image": "latentopt.images",
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
