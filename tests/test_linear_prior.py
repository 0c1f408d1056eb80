"""The linear prior: the regression against a plain solution, cross-validation, files, the start, the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator
from safetensors.torch import save_file

from latentopt.checkpoints.networks import save_generator
from latentopt.errors import StatisticsError, UsageError
from latentopt.files.storage import load_tensors
from latentopt.registry import INITIALIZERS
from latentopt.statistics.at_hand import given_or_found
from latentopt.statistics.linear_prior import PRIOR, LinearPrior, PooledFeatures, default_grids, prior_path
from latentopt.statistics.linear_prior_fit import (
    RIDGES,
    Sums,
    choose_ridge,
    draw_block,
    draw_mixed,
    fit_prior,
    reduce_rank,
)
from latentopt.statistics.linear_prior_measure import measure_prior
from latentopt.statistics.pnorm import PNORM
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.types import GeneratorInputs

SAMPLES = 160
COARSE = (1, 1, 1, 1, 1)  # 480 features: the default's 2784 would take seconds a fit


@pytest.fixture(scope="module")
def pnorm(tiny_generator):
    return fit_pnorm(tiny_generator, 2000, batch=1000)


@pytest.fixture(scope="module")
def features(tiny_generator) -> PooledFeatures:
    return PooledFeatures(tiny_generator, "bundled", grids=COARSE)


@pytest.fixture(scope="module")
def prior(tiny_generator, pnorm, features) -> LinearPrior:
    return fit_prior(tiny_generator, pnorm, features, samples=SAMPLES)


# The regression


def rows(n: int, d: int = 6, k: int = 5, seed: int = 0, noise: float = 0.3):
    """x far from its origin, and y that is linear in x but for noise of its own size in each column."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64) + 3
    slope = torch.randn(d, k, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return x, x @ slope + 2 + noise * torch.randn(n, k, generator=rng, dtype=torch.float64)


def sums_of(x, y, size=7) -> Sums:
    sums = Sums.zeros(x.shape[1], y.shape[1])
    for part in range(0, len(x), size):
        sums.add_(x[part : part + size], y[part : part + size])
    return sums


@pytest.mark.parametrize("strength", [1e-6, 0.1, 10.0])
def test_streamed_ridge_is_the_plain_one(strength):
    x, y = rows(50)
    b, a = sums_of(x, y).ridge(strength)
    n, xc, yc = len(x), x - x.mean(0), y - y.mean(0)
    expected = torch.linalg.lstsq(  # least squares with the penalty as extra rows
        torch.cat([xc, (n * strength) ** 0.5 * torch.eye(6, dtype=x.dtype)]), torch.cat([yc, yc.new_zeros(6, 5)])
    ).solution
    torch.testing.assert_close(b, expected)
    torch.testing.assert_close(a, y.mean(0) - x.mean(0) @ b)


def test_residual_and_spread_from_sums_are_those_of_the_rows():
    sums = sums_of(*rows(40))
    x, y = rows(30, seed=5)
    b, a = sums.ridge(0.5)
    held = sums_of(x, y)
    torch.testing.assert_close(held.residual(b, a), (y - a - x @ b).square().sum(0))
    torch.testing.assert_close(held.spread(a), (y - a).square().sum(0))


def test_folds_are_left_out_exactly():
    parts = [rows(20, seed=i) for i in range(3)]
    folds = [sums_of(*part) for part in parts]
    rest = folds[0].plus(folds[1]).plus(folds[2]).plus(folds[1], -1)
    kept = sums_of(*(torch.cat(pair) for pair in zip(parts[0], parts[2], strict=True)))
    assert rest.n == 40
    for name in ("x", "y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(rest, name), getattr(kept, name))


@pytest.mark.parametrize(("noise", "n"), [(0.05, 400), (3.0, 12), (30.0, 12)])
def test_the_strength_is_that_of_the_best_cross_validated_share(noise, n):
    """Against a search over all strengths with the rows themselves."""
    parts = [rows(n, seed=i, noise=noise) for i in range(4)]
    variance = torch.tensor([4.0, 1.0, 1.0, 0.1, 0.1], dtype=torch.float64)
    strength, r2, share = choose_ridge([sums_of(*part) for part in parts], variance)

    def validated(candidate):
        residual = spread = 0
        for i, (x, y) in enumerate(parts):
            others = [torch.cat(t) for t in zip(*(p for j, p in enumerate(parts) if j != i), strict=True)]
            b, a = sums_of(*others).ridge(candidate)
            residual = residual + (y - a - x @ b).square().sum(0)
            spread = spread + (y - others[1].mean(0)).square().sum(0)
        return 1 - residual / spread, (1 - (variance @ residual) / (variance @ spread)).item()

    assert strength == max(RIDGES, key=lambda candidate: validated(candidate)[1])
    torch.testing.assert_close(r2, validated(strength)[0])
    assert share == pytest.approx(validated(strength)[1])


def test_noise_explains_nothing():
    folds = [sums_of(rows(50, seed=i)[0], rows(50, seed=i + 10)[1]) for i in range(4)]
    strength, _, share = choose_ridge(folds, torch.ones(5, dtype=torch.float64))
    assert strength == RIDGES[-1]
    assert abs(share) < 0.05


@pytest.mark.parametrize("rank", [1, 3, 50])
def test_the_reduced_rank_predicts_best(rank):
    x, y = rows(200, noise=0.0)
    sums = sums_of(x, y)
    b, _ = sums.ridge(1e-9)
    variance = torch.tensor([4.0, 1.0, 1.0, 0.1, 0.1], dtype=torch.float64)
    reduce, expand = reduce_rank(b, sums.covariance, variance, rank)
    kept = min(rank, 5)
    assert reduce.shape == (6, kept)
    predicted = (x - x.mean(0)) @ b
    u, s, v = torch.linalg.svd(predicted * variance.sqrt(), full_matrices=False)
    best = (u[:, :kept] * s[:kept]) @ v[:kept] / variance.sqrt()
    torch.testing.assert_close((x - x.mean(0)) @ reduce @ expand, best)


# Samples and features


def test_samples_are_mixed_and_depend_on_their_number_alone(tiny_generator):
    ws = draw_mixed(tiny_generator, range(40), seed=3)
    assert ws.shape == (40, 8, 16)
    torch.testing.assert_close(draw_mixed(tiny_generator, range(17, 20), seed=3), ws[17:20], rtol=0, atol=1e-6)
    assert not torch.equal(draw_mixed(tiny_generator, range(40), seed=4), ws)
    changes = (ws.diff(dim=1).abs().amax(dim=2) > 0).sum(dim=1)
    assert set(changes.tolist()) == {0, 1}, "one code, or two with one place where they meet"
    assert 10 < changes.sum() < 30


def test_labels_and_generators_of_one_layer():
    ws = draw_mixed(make_tiny_generator(c_dim=3), range(12))
    codes = torch.cat([ws[:, 0], ws[:, -1]])
    assert ws.isfinite().all() and len(codes.unique(dim=0)) > 12


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((32, 64, 128, 128, 128), (1, 1, 1, 2, 4)),
        ((64, 128, 256, 512, 512), (1, 1, 1, 1, 2)),
        ((512, 1024, 2048), (1, 1, 1)),
        ((64,), (4,)),
    ],
    ids=["bundled", "lpips-vgg", "wide", "one stage"],
)
def test_grids(widths, expected):
    assert default_grids(widths) == expected


def test_features_are_averages_of_the_stages(tiny_generator):
    features = PooledFeatures(tiny_generator, "bundled")
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = features(image)
    stages = features.perceptual.extract(image)
    assert x.shape == (2, 32 + 64 + 128 + 128 * 4 + 128 * 16)
    torch.testing.assert_close(x[:, :32], stages[0].mean(dim=(2, 3)))
    corner = stages[3][:, :, :2, :2].mean(dim=(2, 3))  # 4x4 there, so a quarter of the 2x2 grid
    torch.testing.assert_close(x[:, 224:736:4], corner)


def test_large_images_are_shrunk_first(features):
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = torch.nn.functional.avg_pool2d(image, 2)
    torch.testing.assert_close(features(image), features(small))


# The fit


def test_what_is_fitted_predicts_samples(tiny_generator, pnorm, features, prior):
    """New samples, not those of the fit: the share explained is about the one that is stored; the mean explains 0."""
    x, y = draw_block(tiny_generator, features, pnorm, range(1000, 1200), seed=0, batch=32)
    v = prior.codes(x).double()
    variance = pnorm.std.square()
    residual = (v - y.unflatten(1, (8, 16))).square().sum(dim=(0, 1)) @ variance
    spread = y.unflatten(1, (8, 16)).square().sum(dim=(0, 1)) @ variance
    share = 1 - (residual / spread).item()
    assert share > 0.2
    assert share == pytest.approx(prior.share, abs=0.12)
    assert prior.r2.shape == (16,) and (prior.r2 < 1).all()
    assert prior.card["n"] == SAMPLES and prior.card["ridge"] in RIDGES
    assert (prior.fingerprint, prior.network) == (tiny_generator.fingerprint, features.network)


def test_the_fit_is_deterministic_and_independent_of_the_batch(tiny_generator, pnorm, features, prior):
    again, other = (fit_prior(tiny_generator, pnorm, features, samples=SAMPLES, batch=n) for n in (32, 7))
    x = features(torch.zeros(1, 3, 32, 32))
    assert torch.equal(again.codes(x), prior.codes(x))
    torch.testing.assert_close(other.codes(x), prior.codes(x), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(
        fit_prior(tiny_generator, pnorm, features, samples=SAMPLES, seed=1).codes(x), prior.codes(x), atol=1e-3
    )


def test_too_few_samples(tiny_generator, pnorm, features):
    with pytest.raises(UsageError, match="8 samples at least, not 7"):
        fit_prior(tiny_generator, pnorm, features, samples=7)


def test_predictions_stay_within_the_radius_of_samples(prior):
    """Features far outside what the samples showed."""
    x = prior.feature_mean + 1e3 * prior.feature_scale * torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    norms = prior.codes(x).norm(dim=2)
    assert norms.max() <= 4 + 1e-4, "sqrt(16)"
    assert norms.max() > 3.99, "the bound is reached"
    inputs = prior.predict(x)
    torch.testing.assert_close(prior.basis.whiten(inputs.ws), prior.codes(x), rtol=1e-3, atol=1e-2)


# Files


@pytest.fixture
def path(tmp_path, prior, pnorm, monkeypatch) -> Path:
    """`pnorm_stats/tiny.prior.safetensors` in the current folder, beside the statistics."""
    monkeypatch.chdir(tmp_path)
    pnorm.save(Path("pnorm_stats/tiny.safetensors"))
    path = prior_path(Path("pnorm_stats/tiny.safetensors"))
    assert path == Path("pnorm_stats/tiny.prior.safetensors")
    prior.save(path)
    return path


def test_a_saved_prior_comes_back(path, prior, tiny_generator, features):
    found, where = given_or_found(PRIOR, tiny_generator)
    assert where == path
    x = features(torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(found.codes(x), prior.codes(x), rtol=0, atol=5e-3)  # float16
    assert found.card == prior.card and found.network == prior.network and found.share == prior.share
    assert given_or_found(PNORM, tiny_generator)[1].name == "tiny.safetensors", "statistics are not confused with it"


def damage(path: Path, **changes) -> None:
    """Rewrite a prior with other tensors or metadata; None removes an entry."""
    tensors, metadata = load_tensors(path)
    for key, value in changes.items():
        own = tensors if key in tensors else metadata
        own.pop(key)
        if value is not None:
            own[key] = value
    save_file(tensors, path, metadata)


WRONG = {
    "format": ({"format": "latentopt-pnorm-1"}, "its format is 'latentopt-pnorm-1'"),
    "tensor gone": ({"expand": None}, "lacks 'expand'"),
    "fingerprint gone": ({"fingerprint": None}, "lacks 'fingerprint'"),
    "shape": ({"feature_mean": torch.zeros(3)}, r"feature_mean is \[3\], which does not fit"),
    "dimensions": ({"r2": torch.zeros(16, 1)}, r"r2 is \[16, 1\]"),
    "not finite": ({"r2": torch.full((16,), float("nan"))}, "r2 holds values that are not finite"),
    "std": ({"std": torch.zeros(16)}, "must be positive"),
    "grids": ({"grids": "3"}, "not a list"),
    "slope": ({"slope": "steep"}, "steep"),
    "card": ({"card": "[1]"}, "not a table"),
    "card cut": ({"card": "{"}, "not a usable linear prior"),
}


@pytest.mark.filterwarnings("ignore:passed over")
@pytest.mark.parametrize("name", WRONG)
def test_damaged_priors(name, path, tiny_generator):
    changes, words = WRONG[name]
    damage(path, **changes)
    with pytest.raises(StatisticsError, match=words) as caught:
        given_or_found(PRIOR, tiny_generator)
    assert str(path) in str(caught.value) and "latentopt fit-pnorm --prior" in str(caught.value)


@pytest.mark.filterwarnings("ignore:passed over")
def test_files_that_are_none(path, tiny_generator):
    path.write_text("hello")
    with pytest.raises(StatisticsError, match="not a usable linear prior"):
        given_or_found(PRIOR, tiny_generator)
    path.unlink()
    with pytest.raises(StatisticsError, match=r"no linear prior of 'tiny' \(.*run: latentopt fit-pnorm --prior"):
        given_or_found(PRIOR, tiny_generator)
    with pytest.raises(StatisticsError, match=r"away\.safetensors: .*no such file"):
        LinearPrior.load(Path("away.safetensors"))


# The start


def test_the_start_is_the_prediction(path, tiny_generator, prior, features):
    """Near the targets' own codes, and those of the right images: nearer than the origin of P-norm."""
    ws = draw_mixed(tiny_generator, range(500, 540))
    target = tiny_generator.synthesis(GeneratorInputs(ws)).clamp(-1, 1)
    start = INITIALIZERS.create("linear", tiny_generator)(target, range(40)).ws
    torch.testing.assert_close(start, prior.predict(features(target)).ws, atol=0.02, rtol=0)
    own, found = (prior.basis.whiten(x) * prior.std for x in (ws, start))
    assert (found - own).square().sum() < 0.75 * own.square().sum()
    assert (found - own.roll(1, dims=0)).square().sum() > own.square().sum()


def test_another_generators_prior_is_refused(path, tiny_generator):
    other = make_tiny_generator(4)
    with pytest.raises(StatisticsError, match="linear prior of generator") as caught:
        INITIALIZERS.create("linear", other)
    assert tiny_generator.fingerprint in str(caught.value) and other.fingerprint in str(caught.value)
    with pytest.raises(StatisticsError, match="linear prior of generator"):
        INITIALIZERS.create("linear", other, prior=str(path))


def test_another_networks_features_are_refused(path, tiny_generator, prior):
    replace(prior, network="bundled 0123456789abcdef").save(path)
    with pytest.raises(StatisticsError, match=r"480 features of bundled 0123456789abcdef; here .*fit-pnorm --prior"):
        INITIALIZERS.create("linear", tiny_generator)


@pytest.mark.parametrize(
    ("grids", "words"),
    [("[1, 1]", "do not fit the 5 stages"), ("[1, 1, 1, 1, 2]", "here they are the 864 features")],
)
def test_grids_that_do_not_fit_the_network(grids, words, path, tiny_generator):
    damage(path, grids=grids)
    with pytest.raises(StatisticsError, match=words):
        INITIALIZERS.create("linear", tiny_generator)


# The command


@pytest.fixture
def empty(tmp_path, monkeypatch, tiny_generator) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latentopt.statistics.linear_prior.MOST_FEATURES", 500)  # as COARSE
    save_generator(tiny_generator, Path("tiny.safetensors"))
    return tmp_path


FIT = ("fit-pnorm", "--network", "tiny.safetensors", "--samples", "2000", "--prior", "--prior-net", "bundled")


def test_fit_pnorm_prior(empty, latentopt, tiny_generator):
    code, out, err = latentopt(*FIT, "--prior-samples", "160")
    assert code == 0, err
    file = Path("pnorm_stats/tiny.prior.safetensors")
    prior = LinearPrior.load(file, tiny_generator)
    for words in (
        "160 samples, seed 0",
        f"{100 * prior.share:.0f} % of the variance in P",
        prior.network,
        "--init linear",
    ):
        assert words in out
    assert "160/160" in err
    before = file.stat().st_mtime_ns
    code, out, _ = latentopt(*FIT, "--prior-samples", "160")
    assert code == 0 and out.count("already fitted") == 2 and file.stat().st_mtime_ns == before
    assert latentopt(*FIT, "--prior-samples", "160", "--seed", "1", "-q")[0] == 0
    assert LinearPrior.load(file).card["seed"] == 1, "other statistics, another prior"
    code, out, err = latentopt("info", file)
    assert code == 0 and "latentopt prior" in out


def test_a_foreign_file_is_kept(empty, latentopt):
    file = Path("pnorm_stats/tiny.prior.safetensors")
    file.parent.mkdir()
    file.write_text("mine")
    code, _, err = latentopt(*FIT, "--prior-samples", "40", "-q")
    assert code == 1 and "--overwrite" in err and file.read_text() == "mine"
    assert latentopt(*FIT, "--prior-samples", "40", "-q", "--overwrite")[0] == 0
    assert LinearPrior.load(file).card["n"] == 40


def test_no_prior_of_a_shard(empty, latentopt):
    code, _, err = latentopt(*FIT, "--shard", "0/2")
    assert code == 2 and "--prior needs the whole statistics" in err
    assert not Path("pnorm_stats").exists()


def test_invert_from_the_linear_start(path, latentopt, tiny_generator):
    """`--init linear` on any recipe, with the network that the prior names."""
    from latentopt.pictures.images import save_png

    save_generator(tiny_generator, Path("tiny.safetensors"))
    save_png(
        Path("a.png"),
        tiny_generator.synthesis(GeneratorInputs(draw_mixed(tiny_generator, range(7, 8))))[0].clamp(-1, 1),
    )
    options = ("--network", "tiny.safetensors", "--recipe", "i2s", "--steps", "2", "--terms", "l2=1", "-q")
    code, _, err = latentopt("invert", "a.png", *options, "--init", "linear")
    assert code == 0, err
    assert Path("out/a/inputs.safetensors").is_file()


def test_a_prior_is_kept_and_not_fitted_again(empty, tiny_generator_copy):
    generator, out, counted = tiny_generator_copy, Path("mine.prior.safetensors"), []
    pnorm = fit_pnorm(generator, 2000, batch=1000)
    settings = {"samples": 40, "net": "bundled", "on_progress": counted.append}
    prior, made = measure_prior(generator, pnorm, out, **settings)
    assert made and LinearPrior.load(out, generator).card == prior.card and sum(counted) == 40
    assert not measure_prior(generator, pnorm, out, **settings)[1] and sum(counted) == 40
    other = fit_pnorm(generator, 2000, batch=1000, seed=1)
    assert measure_prior(generator, other, out, **settings)[1], "in other coordinates"
    out.write_text("mine")
    with pytest.raises(StatisticsError, match="--overwrite"):
        measure_prior(generator, pnorm, out, **settings)
    assert out.read_text() == "mine"
