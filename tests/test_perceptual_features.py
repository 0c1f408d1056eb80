"""The features that perceptual distances are made of, and the shrinking of images before them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from latentopt.perceptual.features import PerceptualFeatures, network_for
from latentopt.pictures.resizing import shrink


def images(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", params=[torch.channels_last, torch.contiguous_format], ids=str)
def features(request, tiny_generator) -> PerceptualFeatures:
    return PerceptualFeatures(tiny_generator, "bundled", memory_format=request.param)


def test_three_ways_to_one_distance(features):
    """Of two images, to features that were kept, and as the squared length between coordinates."""
    a, b = images(0, 2, 3, 80, 64), images(1, 2, 3, 80, 64)
    distance = features.distance(a, b)
    assert distance.shape == (2,) and (distance > 0.01).all()
    torch.testing.assert_close(features.distance_to(features.extract(a), features.units(b)), distance)
    pairs = zip(features.coordinates(a), features.coordinates(b), strict=True)
    torch.testing.assert_close(sum((x - y).square().sum(dim=(1, 2, 3)) for x, y in pairs), distance)
    assert features.distance(a, a).tolist() == [0, 0]


def test_stages(features):
    found = features.extract(images(0, 1, 3, 128, 64))
    assert tuple(stage.shape[1] for stage in found) == features.widths
    assert found[0].shape[2:] == (64, 32), "an image higher than `size` is shrunk first"


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 8), (8, 64), (64, 8), (15, 31)])
def test_images_that_are_too_small_for_the_network(features, height, width):
    """Enlarged, so that the distance is that of their pixels drawn as squares; the gradient reaches every pixel."""
    a, b = images(0, 2, 3, height, width).requires_grad_(), images(1, 2, 3, height, width)
    distance = features.distance(a, b)
    assert (distance > 0.01).all()
    (gradient,) = torch.autograd.grad(distance.sum(), a)
    assert (gradient.abs().sum(dim=1) > 0).all()
    factor = -(-16 // min(height, width))
    larger = [x.detach().repeat_interleave(factor, 2).repeat_interleave(factor, 3) for x in (a, b)]
    if larger[0].shape[2] <= 64:
        torch.testing.assert_close(features.distance(*larger), distance.detach())


def test_the_network_for_a_generator(tiny_generator_copy):
    generator = tiny_generator_copy
    assert [network_for(generator), network_for(generator, "lpips-alex")] == ["lpips-vgg", "lpips-alex"]
    generator.card = {"data": "portraits"}
    assert network_for(generator, "lpips-alex") == "bundled"


@pytest.mark.parametrize(
    ("size", "height", "expected"),
    [
        ((64, 64), 32, (32, 32)),
        ((96, 60), 32, (32, 20)),
        ((60, 96), 32, (32, 51)),
        ((300, 2), 32, (32, 1)),
        ((33, 31), 33, (33, 31)),
        ((20, 90), 32, (20, 90)),
    ],
)
def test_shrinking_keeps_aspect_and_mean(size, height, expected):
    image = images(2, 2, 3, *size)
    small = shrink(image, height)
    assert tuple(small.shape[2:]) == expected
    if expected == size:
        assert small is image
    else:
        assert torch.equal(small, interpolate(image, expected, mode="area"))
    if all(side % to == 0 for side, to in zip(size, expected, strict=True)):
        torch.testing.assert_close(small.mean(dim=(2, 3)), image.mean(dim=(2, 3)))
