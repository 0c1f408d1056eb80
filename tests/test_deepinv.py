"""The adapter for DeepInverse: on a stand-in for the package, and on the package where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from latentopt.errors import LatentoptError, UsageError
from latentopt.recipe.recipe import Recipe
from latentopt.restoring.work import restore
from latentopt.types import GeneratorInputs

ADAPTER = "latentopt.integrations.deepinv"
INSTALLED = importlib.util.find_spec("deepinv") is not None


class Physics(nn.Module):
    """As DeepInverse's: `A` is the operator on [0,1], calling it adds the noise."""

    def __init__(self, measure, sigma: float = 0.0) -> None:
        super().__init__()
        self.measure, self.sigma = measure, sigma

    def A(self, x: Tensor) -> Tensor:
        return self.measure(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.A(x)
        return y + self.sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def adapter(monkeypatch):
    """The adapter as it is imported with the stand-in, whether the package is installed or not."""
    package, models = ModuleType("deepinv"), ModuleType("deepinv.models")
    models.Reconstructor = nn.Module
    monkeypatch.setitem(sys.modules, "deepinv", package)
    monkeypatch.setitem(sys.modules, "deepinv.models", models)
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    yield importlib.import_module(ADAPTER)
    sys.modules.pop(ADAPTER, None)


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(8, 6, 4))


@pytest.fixture(scope="module")
def truth(generator) -> Tensor:
    """[2,3,16,16] in [0,1]."""
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    image = generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z)))).clamp(-1, 1)
    return (image + 1) / 2


def quick(steps: int = 20) -> Recipe:
    return Recipe.load("i2s").in_every_stage(steps=steps, terms=[{"name": "l2", "weight": 1.0}])


MATRIX = torch.randn(40, 3 * 16 * 16, generator=torch.Generator().manual_seed(1)) / 28
PHYSICS = {
    "down": Physics(lambda x: avg_pool2d(x, 4), sigma=0.02),
    "hidden": Physics(lambda x: x * (torch.arange(16) < 9)),
    "compressed": Physics(lambda x: x.flatten(1) @ MATRIX.T),
}


def check_nearer(reconstructor, generator, physics, truth: Tensor) -> None:
    """What is measured of the result is nearer to the measurement than what is measured of the mean picture."""
    y = physics(truth)
    found = reconstructor(y, physics)
    assert found.shape == truth.shape
    assert found.amin() >= 0 and found.amax() <= 1
    assert found.dtype == y.dtype
    mean = generator.synthesis(GeneratorInputs(generator.broadcast(generator.w_avg.expand(len(truth), -1))))
    before, after = ((physics.A(x) - y).square().mean() for x in ((mean + 1) / 2, found))
    assert after < 0.7 * before


@pytest.mark.parametrize("kind", PHYSICS)
def test_physics_are_taken(kind, adapter, generator, truth):
    check_nearer(adapter.StyleGANReconstructor(generator, quick()), generator, PHYSICS[kind], truth)


def test_pictures_depend_on_no_companions_and_gradients_are_made_where_none_are_wanted(adapter, generator, truth):
    reconstructor, physics = adapter.StyleGANReconstructor(generator, quick(5)), PHYSICS["down"]
    y = physics(truth)
    with torch.no_grad():
        both, again = reconstructor(y, physics), reconstructor(y, physics)
    assert torch.equal(both, again)
    assert not both.requires_grad
    torch.testing.assert_close(reconstructor(y[:1], physics), both[:1], rtol=1e-3, atol=1e-3)


def test_of_several_solutions_the_nearest_is_kept(adapter, generator, truth):
    physics = PHYSICS["compressed"]
    y = physics(truth)
    off = [
        (physics.A(adapter.StyleGANReconstructor(generator, quick(3), solutions=n)(y, physics)) - y)
        .square()
        .mean(dim=1)
        for n in (1, 6)
    ]
    assert (off[1] <= off[0]).all()
    assert (off[1] < off[0]).any(), "further starts find another picture"


def test_priors_hold_where_numbers_are_compared(adapter, generator, truth, monkeypatch):
    """As of the recipe, for what is a picture and what is none."""
    seen = []

    def restoring(*arguments, **options):
        seen.append([term["name"] for term in arguments[3].stages[0].terms])
        return restore(*arguments, **options)

    monkeypatch.setattr(adapter, "restore", restoring)
    recipe = quick(2).in_every_stage(terms=[{"name": "perceptual", "net": "bundled"}, {"name": "w-prior"}])
    for name in ("down", "compressed"):
        adapter.StyleGANReconstructor(generator, recipe)(PHYSICS[name](truth), PHYSICS[name])
    assert seen == [["perceptual", "w-prior"], ["l2", "w-prior"]]


def test_the_default_recipe(adapter, generator, truth, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latentopt.statistics.pnorm_measure.SAMPLES", 500)
    made = adapter.StyleGANReconstructor(generator)
    assert (made.recipe.name, made.solutions) == ("pnorm-map", 1)
    made.recipe = made.recipe.in_every_stage(steps=10)
    check_nearer(made, generator, PHYSICS["compressed"], truth)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(1, 3, 5, 5), r"are \[B, 3, 4, 4\] for this generator"),
        ([torch.zeros(1, 3, 4, 4)], "a measurement is one real tensor"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.complex64), "a measurement is one real tensor"),
    ],
    ids=["size", "several", "complex"],
)
def test_measurements_that_cannot_be_meant(y, words, adapter, generator):
    with pytest.raises(UsageError, match=words):
        adapter.StyleGANReconstructor(generator, quick())(y, PHYSICS["down"])


def test_physics_that_hold_something_of_every_image_are_refused(adapter, generator, truth):
    each = torch.ones(2, 1, 16, 16)
    each[0, :, 4:], each[1, :, :4] = 0, 0
    masks = [Physics(lambda x, mask=mask: mask * x) for mask in (each, each[:1])]
    with pytest.raises(UsageError, match=r"this Physics measures 2 images, .* call the reconstructor once an image"):
        adapter.StyleGANReconstructor(generator, quick(1))(masks[0](truth), masks[0])
    adapter.StyleGANReconstructor(generator, quick(1))(masks[1](truth[:1]), masks[1])


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    monkeypatch.setitem(sys.modules, "deepinv.models", None)
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    with pytest.raises(LatentoptError, match=r"pip install 'latentopt\[deepinv\]'"):
        importlib.import_module(ADAPTER)


@pytest.mark.skipif(not INSTALLED, reason="deepinv is not installed")
def test_the_physics_of_the_package(generator, truth):
    deepinv = pytest.importorskip("deepinv")
    made = importlib.import_module(ADAPTER).StyleGANReconstructor(generator, quick())
    assert isinstance(made, deepinv.models.Reconstructor)
    mask = torch.ones(3, 16, 16)
    mask[:, 4:12, 4:12] = 0
    noisy = deepinv.physics.GaussianNoise(0.02)
    for physics in (
        deepinv.physics.Inpainting(img_size=(3, 16, 16), mask=mask),
        deepinv.physics.Downsampling(img_size=(3, 16, 16), factor=2, filter="bicubic"),
        deepinv.physics.BlurFFT((3, 16, 16), torch.full((1, 1, 3, 3), 1 / 9), noise_model=noisy),
        deepinv.physics.CompressedSensing(m=60, img_size=(3, 16, 16)),
    ):
        check_nearer(made, generator, physics, truth)
