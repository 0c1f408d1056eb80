"""Model corruption: nothing for an untouched generator, more for a stronger delta, the same however it is drawn."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tiny_generator

from latentopt.errors import ImageError, UsageError
from latentopt.evaluation.corruption import DIRECTIONS, corruption, extractor_name, random_shifts, shifted_features
from latentopt.evaluation.image_metrics import ms_ssim, ms_ssim_scales
from latentopt.judge.network import Judge, JudgeConfig
from latentopt.statistics.sampling import sample_w, w_std
from latentopt.types import GeneratorInputs

WEIGHT = "synthesis.b16.conv1.weight"
N = 40


@pytest.fixture(scope="module")
def judge():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = JudgeConfig(("a", "b"), widths=(8, 8, 8), num_features=6, identity_dim=2, resolution=32)
        return Judge(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(tiny_generator):
    return GeneratorInputs(tiny_generator.broadcast(sample_w(tiny_generator, 5, 1)))


def delta(generator, strength, seed=0):
    noise = torch.randn(1, *generator.tunable[WEIGHT], generator=torch.Generator().manual_seed(seed))
    return {WEIGHT: strength * noise}


@pytest.mark.parametrize("deltas", [None, "zero"])
def test_an_untouched_generator_is_not_corrupted(tiny_generator, inputs, judge, deltas):
    tuned = inputs.replace(deltas=deltas and delta(tiny_generator, 0.0))
    found = corruption(tiny_generator, tuned, n=N, judge=judge)
    assert (found.frechet, found.kernel, found.kernel_std, found.n) == (0.0, 0.0, 0.0, N)


def test_grows_with_the_strength_of_the_delta(tiny_generator, inputs, judge):
    found = [
        corruption(tiny_generator, inputs.replace(deltas=delta(tiny_generator, s)), n=N, judge=judge)
        for s in (0.5, 1.0, 2.0)
    ]
    assert 0 < found[0].frechet < found[1].frechet < found[2].frechet
    assert 0 < found[0].kernel < found[1].kernel < found[2].kernel


def test_depends_on_the_seed_and_nothing_else(tiny_generator, inputs, judge):
    tuned = inputs.replace(deltas=delta(tiny_generator, 1.0))
    first = corruption(tiny_generator, tuned, n=N, judge=judge)
    torch.manual_seed(99)
    assert corruption(tiny_generator, tuned, n=N, judge=judge) == first
    assert corruption(tiny_generator, tuned, n=N, judge=judge, seed=1).frechet != first.frechet
    other = corruption(tiny_generator, tuned, n=N, judge=judge, batch=7)
    assert other.frechet == pytest.approx(first.frechet, rel=1e-4)
    assert other.kernel == pytest.approx(first.kernel, rel=1e-4)


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_shifts_have_the_size_of_the_cloud_of_w(tiny_generator, directions):
    shifts = random_shifts(tiny_generator, 4000, 0, directions)
    assert shifts.shape == (4000, tiny_generator.w_dim)
    assert shifts.square().sum(dim=1).mean().sqrt() == pytest.approx(w_std(tiny_generator), rel=0.03)
    assert shifts.mean(dim=0).norm() < 0.1 * w_std(tiny_generator)
    assert torch.equal(shifts, random_shifts(tiny_generator, 4000, 0, directions))


def test_shifts_by_samples_have_the_covariance_of_w(tiny_generator):
    shifts, w = random_shifts(tiny_generator, 20_000, 0), sample_w(tiny_generator, 1, 20_000)
    assert torch.allclose(shifts.T.cov(), w.T.cov(), atol=0.05 * w.T.cov().diagonal().max())


def test_isotropic_shifts_have_one_norm_and_no_favourite_direction(tiny_generator):
    shifts = random_shifts(tiny_generator, 4000, 0, "isotropic")
    assert torch.allclose(shifts.norm(dim=1), torch.full((4000,), w_std(tiny_generator)))
    spread = torch.linalg.eigvalsh(shifts.T.cov())
    assert spread.max() < 1.5 * spread.min()


def test_the_same_shift_reaches_every_row(tiny_generator, tiny_inputs, judge):
    """Rows of ws may differ (W+); a picture is that of ws plus the shift in each row."""
    one, shifts = tiny_inputs.index([1]), random_shifts(tiny_generator, 3, 0)
    by_hand = [GeneratorInputs(one.ws + shift.expand_as(one.ws)) for shift in shifts]
    images = torch.cat([tiny_generator.synthesis(x).clamp(-1, 1) for x in by_hand])
    found = shifted_features(tiny_generator, one, shifts, judge, batch=2)
    assert torch.allclose(found, judge.features(images), atol=1e-5)


def test_noise_and_residuals_of_the_inputs_are_kept(tiny_generator, inputs, judge):
    shifts = random_shifts(tiny_generator, 3, 0)
    for fixed in (
        {"noise": {"b32.conv1": torch.ones(1, 1, 32, 32)}},
        {"residuals": {"b8.conv1": torch.ones(1, 10, 8, 8)}},
    ):
        found = shifted_features(tiny_generator, inputs.replace(**fixed), shifts, judge)
        assert not torch.allclose(found, shifted_features(tiny_generator, inputs, shifts, judge), atol=1e-4)
        assert found.shape == (3, 6)


def test_progress_counts_both_sets(tiny_generator, inputs, judge):
    counts = []
    corruption(tiny_generator, inputs, n=10, judge=judge, batch=4, on_progress=counts.append)
    assert counts == [4, 4, 2] * 2


def test_the_extractor_names_the_network_and_any_resizing(tiny_generator, judge):
    assert "resized" not in extractor_name(judge, tiny_generator)
    assert "resized to 32x32" in extractor_name(judge, make_tiny_generator(channels=(12, 10, 8)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        other = Judge(judge.config)
    assert extractor_name(other, tiny_generator) != extractor_name(judge, tiny_generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 3}, "at least 4"), ({"batch": 0}, "batches"), ({"directions": "samples2"}, "samples, isotropic")],
)
def test_unusable_options_are_refused(tiny_generator, inputs, judge, options, message):
    with pytest.raises(UsageError, match=message):
        corruption(tiny_generator, inputs, judge=judge, **options)


def test_one_image_at_a_time(tiny_generator, tiny_inputs, judge):
    with pytest.raises(UsageError, match="one image"):
        corruption(tiny_generator, tiny_inputs, judge=judge)


@pytest.mark.parametrize(
    ("side", "scales"),
    [(11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (64, 3), (98, 3), (99, 4), (175, 4), (176, 5), (1024, 5)],
)
def test_ms_ssim_has_the_scales_that_fit(side, scales):
    assert ms_ssim_scales(side) == scales


@pytest.mark.parametrize("side", [11, 22, 44, 64, 99])
def test_ms_ssim_of_equal_pictures_is_one_at_every_number_of_scales(side):
    x = torch.rand(1, 3, side + 1, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(ms_ssim(x, x), torch.ones(1))


def test_ms_ssim_falls_with_damage_and_is_an_image_s_own():
    rng = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 8, generator=rng) * 2 - 1, (64, 64), mode="bilinear")
    noise = torch.randn(3, 3, 64, 64, generator=rng)
    found = [ms_ssim(x + s * noise, x) for s in (0.01, 0.1, 0.5)]
    assert (found[0] > found[1]).all() and (found[1] > found[2]).all() and (found[2] > 0).all()
    assert torch.allclose(ms_ssim(x[1:2] + 0.1 * noise[1:2], x[1:2]), found[1][1:2])
    assert ms_ssim(x, -x).max() <= 0.01
    with pytest.raises(ImageError, match="11"):
        ms_ssim(x[..., :10], x[..., :10])
