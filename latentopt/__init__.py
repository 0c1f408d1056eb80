"""latentopt: StyleGAN inversion, optimisation first. Names are imported when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentopt.files.lazy import lazily

if TYPE_CHECKING:
    from latentopt.checkpoints.delta import Delta as Delta
    from latentopt.checkpoints.networks import load_discriminator as load_discriminator
    from latentopt.checkpoints.networks import load_generator as load_generator
    from latentopt.checkpoints.networks import save_generator as save_generator
    from latentopt.dragging.drag import drag as drag
    from latentopt.evaluation.tuning import tune as tune
    from latentopt.inverting.work import encode as encode
    from latentopt.inverting.work import invert as invert
    from latentopt.pictures.images import read_image as read_image
    from latentopt.recipe.recipe import Recipe as Recipe
    from latentopt.restoring.work import restore as restore
    from latentopt.results.inversion import Inversion as Inversion
    from latentopt.scale.merge import merge as merge
    from latentopt.scale.on_ray import OnRay as OnRay
    from latentopt.scale.workers import Workers as Workers
    from latentopt.statistics.pnorm import PNorm as PNorm
    from latentopt.types import GeneratorInputs as GeneratorInputs

EXPORTS = {
    "load_generator": "latentopt.checkpoints.networks",
    "load_discriminator": "latentopt.checkpoints.networks",
    "save_generator": "latentopt.checkpoints.networks",
    "invert": "latentopt.inverting.work",
    "tune": "latentopt.evaluation.tuning",
    "encode": "latentopt.inverting.work",
    "drag": "latentopt.dragging.drag",
    "restore": "latentopt.restoring.work",
    "merge": "latentopt.scale.merge",
    "Workers": "latentopt.scale.workers",
    "OnRay": "latentopt.scale.on_ray",
    "Delta": "latentopt.checkpoints.delta",
    "Inversion": "latentopt.results.inversion",
    "Recipe": "latentopt.recipe.recipe",
    "GeneratorInputs": "latentopt.types",
    "PNorm": "latentopt.statistics.pnorm",
    "read_image": "latentopt.pictures.images",
}
__all__ = list(EXPORTS)
__getattr__ = lazily(__name__, globals(), EXPORTS)


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
