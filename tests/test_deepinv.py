"""The adapter for DeepInverse, where that is installed."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tiny_generator

from latentopt.recipe.recipe import Recipe
from latentopt.types import GeneratorInputs

deepinv = pytest.importorskip("deepinv")


def test_its_physics_are_taken():
    from latentopt.integrations.deepinv import StyleGANReconstructor

    generator = make_tiny_generator(channels=(8, 6, 4))
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    truth = generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z)))).clamp(-1, 1)
    recipe = Recipe.load("i2s").in_every_stage(steps=20, terms=[{"name": "l2", "weight": 1.0}])
    mask = torch.ones(3, 16, 16)
    mask[:, 4:12, 4:12] = 0
    for physics in (
        deepinv.physics.Inpainting(img_size=(3, 16, 16), mask=mask),
        deepinv.physics.Downsampling(img_size=(3, 16, 16), factor=2, filter="bicubic"),
    ):
        y = physics.A((truth + 1) / 2)
        found = StyleGANReconstructor(generator, recipe)(y, physics)
        assert found.shape == truth.shape
        start = generator.synthesis(GeneratorInputs(generator.broadcast(generator.w_avg.expand(2, -1))))
        before, after = ((physics.A(x) - y).square().mean() for x in ((start + 1) / 2, found))
        assert after < before
