"""P-norm statistics: against the reference, by their definition, and with bad input."""

from __future__ import annotations

import json
import pkgutil
import warnings

import numpy as np
import pytest
import torch
from conftest import REFERENCE, make_tiny_generator

from latentopt.errors import StatisticsError, UntrustedFileError
from latentopt.files.resources import resource_folder
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.statistics.moments import Moments, StatisticsWarning
from latentopt.statistics.pnorm import PNorm, p_to_w, w_to_p
from latentopt.statistics.pnorm_fit import PNormFit, draw_codes, fit_pnorm, merge_shards
from latentopt.statistics.shards import find_shards, shard_path


@pytest.fixture(scope="module")
def reference():
    return load_tensors(REFERENCE / "pspace" / "pspace.safetensors")[0]


@pytest.fixture(scope="module")
def reference_pnorm(reference):
    moments = Moments(24)
    for part in reference["io/w_samples"].split(700):
        moments.update(w_to_p(part.double()))
    return PNorm.from_moments(moments)


@pytest.fixture(scope="module")
def tiny_pnorm(tiny_generator):
    return fit_pnorm(tiny_generator, 4000, batch=1000)


def relative(a, b):
    return ((a - b).abs() / b.abs()).max().item()


# --- the reference


def test_components_are_those_of_the_reference(reference, reference_pnorm):
    signs = (reference_pnorm.components * reference["f64/comp"]).sum(1).sign()
    for source in ("f64/comp", "peer/X_comp"):
        assert (signs[:, None] * reference_pnorm.components - reference[source]).abs().max() < 1e-5
    assert relative(reference_pnorm.std, reference["f64/stdev"]) < 1e-5
    assert relative(reference_pnorm.std, reference["peer/X_stdev"]) < 1e-5
    torch.testing.assert_close(reference_pnorm.mean, reference["f64/mean"].flatten(), rtol=1e-5, atol=1e-6)
    share = reference_pnorm.std.square() / reference_pnorm.std.square().sum()
    torch.testing.assert_close(share, reference["peer/X_var_ratio"].double(), rtol=1e-4, atol=1e-12)


def test_pulse_statistics_of_p(reference, reference_pnorm):
    """The std of each dimension, put together from the components."""
    std = (reference_pnorm.components * reference_pnorm.std[:, None]).square().sum(0).sqrt()
    torch.testing.assert_close(std, reference["f64/pulse_std"].double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(reference_pnorm.mean, reference["f64/pulse_mean"].double(), rtol=1e-5, atol=1e-6)


def test_whitening_is_that_of_the_reference(reference, reference_pnorm):
    codes = reference["io/codes"]  # [4,6,24]
    expected = reference["f64/whitened"]
    signs = (reference_pnorm.components * reference["f64/comp"]).sum(1).sign()
    v64, v32 = (signs.to(x.dtype) * reference_pnorm.whiten(x) for x in (codes.double(), codes))
    scale = expected.abs().clamp(min=1)
    assert ((v64 - expected).abs() / scale).max() < 1e-6
    for other in (expected, reference["peer/whitened_f32"]):
        assert ((v32 - other).abs() / scale).max() < 2e-3
    torch.testing.assert_close(v64.norm(dim=2), reference["f64/p_norm_per_row"].double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(0.001 * v64.square().mean((1, 2)), reference["f64/p_norm_loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(0.001 * v32.square().mean((1, 2)), reference["peer/p_norm_loss"], rtol=1e-4, atol=0)


def test_gradient_of_the_whitened_norm(reference, reference_pnorm):
    w = reference["io/codes"][2:3].float().requires_grad_()
    (0.001 * reference_pnorm.whiten(w).square().mean()).backward()
    expected = reference["peer/grad_p_norm_loss_code2"]
    assert (w.grad - expected).abs().max() < 1e-3 * expected.abs().max()


# --- P and P-norm


def test_p_undoes_the_activation():
    p = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(w_to_p(torch.nn.functional.leaky_relu(p, 0.2)), p)
    torch.testing.assert_close(p_to_w(w_to_p(p)), p)
    assert w_to_p(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [-5, 0, 2]


def test_the_generators_own_codes_are_white(tiny_generator, tiny_pnorm):
    w = torch.cat([draw_codes(tiny_generator, i, batch=1000) for i in range(4)]).double()
    v = tiny_pnorm.whiten(w)
    torch.testing.assert_close(v.mean(0), torch.zeros(16).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cov(v.T), torch.eye(16).double(), rtol=0, atol=1e-9)


def test_order_and_sign(tiny_pnorm):
    assert (tiny_pnorm.std.diff() <= 0).all()
    rows = tiny_pnorm.components
    assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()


def test_the_origin(tiny_generator, tiny_pnorm):
    assert tiny_pnorm.whiten(tiny_pnorm.w_origin).abs().max() < 1e-9
    assert tiny_pnorm.whiten(tiny_generator.w_avg.double()).square().mean() > 0.01  # the mean of w is elsewhere


@pytest.mark.parametrize("options", [{}, {"std_floor": 0.3}, {"rank": 5}, {"rank": 5, "std_floor": 0.9}], ids=str)
def test_unwhiten_is_the_inverse(tiny_generator, tiny_pnorm, options):
    w = draw_codes(tiny_generator, 7, batch=6).reshape(2, 3, 16).double()
    v = tiny_pnorm.whiten(w, **options)
    assert v.shape == (2, 3, options.get("rank", 16))
    back = tiny_pnorm.unwhiten(v, **options)
    torch.testing.assert_close(tiny_pnorm.whiten(back, **options), v)
    assert torch.allclose(back, w) == ("rank" not in options)
    basis = tiny_pnorm.basis(dtype=torch.float64, **options)
    inputs = (w[:, :1].clone().requires_grad_(),)
    assert torch.autograd.gradcheck(basis.whiten, inputs)
    assert torch.autograd.gradcheck(basis.unwhiten, (v[:, :1].clone().requires_grad_(),))


def test_what_rank_cuts_off_is_at_its_mean(tiny_pnorm):
    w = tiny_pnorm.unwhiten(torch.full((3,), 2.0, dtype=torch.float64), rank=3)
    expected = torch.tensor([2.0] * 3 + [0.0] * 13, dtype=torch.float64)
    torch.testing.assert_close(tiny_pnorm.whiten(w), expected)


def test_std_floor_is_relative_to_the_largest(tiny_pnorm):
    std = tiny_pnorm.basis(std_floor=0.5, dtype=torch.float64).std
    torch.testing.assert_close(std, tiny_pnorm.std.clamp(min=tiny_pnorm.std[0].item() / 2))
    assert std[-1] > tiny_pnorm.std[-1]
    assert tiny_pnorm.basis().std.dtype == torch.float32


def test_condition_number_and_share():
    pnorm = PNorm(torch.zeros(3), torch.eye(3), torch.tensor([3.0, 1.0, 0.1]))
    assert pnorm.condition_number == pytest.approx(900)
    assert [pnorm.components_for(x) for x in (0.5, 0.9, 0.95, 0.9999, 1.0)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("options", [{"std_floor": -0.1}, {"std_floor": 2.0}, {"rank": 0}, {"rank": 17}], ids=str)
def test_options_out_of_range(tiny_pnorm, options):
    with pytest.raises(StatisticsError, match=next(iter(options))):
        tiny_pnorm.basis(**options)


# --- moments


def hard_samples(n=3000, dim=12, seed=0):
    """Far from zero and nearly singular: what breaks E[xx] - E[x]E[x]."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.normal(size=(n, dim)) * np.geomspace(5, 5e-4, dim) + 100).astype(np.float32))


@pytest.mark.parametrize("cuts", [[3000], [1, 2999], [700, 0, 1500, 800], [100] * 30], ids=len)
@pytest.mark.parametrize("merged", [False, True], ids=["update", "merge"])
def test_moments_are_numpys(cuts, merged):
    x = hard_samples()
    moments = Moments(12)
    for part in x.split(cuts):
        if merged:
            other = Moments(12)
            other.update(part)
            moments.merge(other)
        else:
            moments.update(part)
    expected = np.cov(x.double().numpy(), rowvar=False)
    assert moments.count == 3000
    np.testing.assert_allclose(moments.mean, x.double().mean(0).numpy(), rtol=1e-13)
    largest = np.linalg.eigvalsh(expected)[-1]
    assert np.abs(moments.covariance - expected).max() < 1e-12 * largest
    assert np.linalg.eigvalsh(moments.covariance)[0] > 0


def test_update_takes_half_precision_and_leaves_its_input_alone():
    x = hard_samples(50, 3)
    before, moments = x.clone(), Moments(3)
    moments.update(x.to(torch.bfloat16))
    moments.update(x)
    assert moments.count == 100 and torch.equal(x, before)


def interrupt(function, call, after=False):
    """`function`, but its `call`-th call raises KeyboardInterrupt: at once, or when its work is done."""
    calls = iter(range(1, 1000))

    def interrupted(*args, **kwargs):
        if next(calls) != call:
            return function(*args, **kwargs)
        if after:
            function(*args, **kwargs)
        raise KeyboardInterrupt

    return interrupted


@pytest.mark.parametrize("place", ["scipy.linalg.blas.dsyrk", "latentopt.statistics.moments.np.outer"])
def test_an_interrupted_update_changes_nothing(monkeypatch, place):
    x, moments = hard_samples(), Moments(12)
    moments.update(x[:2000])
    before = (moments.count, moments.mean.copy(), moments.scatter)
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt(pkgutil.resolve_name(place), 1))
        with pytest.raises(KeyboardInterrupt):
            moments.update(x[2000:])
    for left, kept in zip((moments.count, moments.mean, moments.scatter), before, strict=True):
        np.testing.assert_array_equal(left, kept)


# --- fitting


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        ("scipy.linalg.blas", "dsyrk", False),
        ("latentopt.statistics.moments.np", "outer", False),
        ("latentopt.statistics.moments.Moments", "update", True),
        ("latentopt.statistics.pnorm_fit", "draw_codes", True),
    ],
)
def test_what_an_interruption_leaves_are_whole_batches(tiny_generator, tmp_path, monkeypatch, owner, name, after):
    """Ctrl-C inside a batch, or just after it was added: the fit that goes on ends as if nothing had happened."""
    settings = {"samples": 1250, "batch": 300, "partial": tmp_path / "partial.safetensors"}
    with monkeypatch.context() as patch:
        patch.setattr(f"{owner}.{name}", interrupt(pkgutil.resolve_name(f"{owner}.{name}"), 3, after))
        fit = PNormFit(tiny_generator, **settings)
        with pytest.raises(KeyboardInterrupt):
            list(fit.run())
    again = PNormFit(tiny_generator, **settings)
    assert again.done == (900 if name == "update" else 600)
    list(again.run())
    whole = PNormFit(tiny_generator, 1250, batch=300)
    list(whole.run())
    assert again.moments.count == 1250
    np.testing.assert_array_equal(again.moments.mean, whole.moments.mean)
    np.testing.assert_array_equal(again.moments.scatter, whole.moments.scatter)


def test_interruption_and_shards_change_nothing(tiny_generator, tmp_path):
    whole = fit_pnorm(tiny_generator, 2500, seed=3, batch=300)
    partial = tmp_path / "partial.safetensors"
    first = PNormFit(tiny_generator, 2500, seed=3, batch=300, partial=partial)
    steps = first.run()
    assert [next(steps).done for _ in range(4)] == [300, 600, 900, 1200]
    steps.close()  # as an interruption does
    second = PNormFit(tiny_generator, 2500, seed=3, batch=300, partial=partial)
    assert second.done == 1200
    assert [record.done for record in second.run()][-1] == second.total == 2500
    for field in ("mean", "components", "std"):
        assert torch.equal(getattr(second.result(), field), getattr(whole, field)), field

    out = tmp_path / "x.safetensors"
    for i in range(3):
        shard = PNormFit(tiny_generator, 2500, seed=3, batch=300, shard=(i, 3), partial=shard_path(out, (i, 3)))
        list(shard.run())
    merged = merge_shards(tiny_generator, find_shards(out))
    torch.testing.assert_close(merged.std, whole.std, rtol=1e-10, atol=0)
    torch.testing.assert_close(merged.components, whole.components, rtol=0, atol=1e-8)
    assert (merged.n, merged.seed, merged.fingerprint) == (2500, 3, tiny_generator.fingerprint)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"batch": 200}, {"samples": 2000}, {"shard": (0, 2)}, "damaged", "half", "other"]
)
def test_moments_of_another_fit_are_not_continued(tiny_generator, tmp_path, change):
    settings = {"samples": 1500, "seed": 0, "batch": 300, "partial": tmp_path / "partial.safetensors"}
    steps = PNormFit(tiny_generator, **settings).run()
    next(steps)
    steps.close()
    generator = tiny_generator
    if change == "damaged":
        path = settings["partial"]
        path.write_bytes(path.read_bytes()[:-9])
    elif change == "half":  # a count that is not that of the batches
        tensors, metadata = load_tensors(settings["partial"])
        metadata["state"] = json.dumps(json.loads(metadata["state"]) | {"count": 600})
        save_tensors(settings["partial"], tensors, metadata)
    elif change == "other":
        generator = make_tiny_generator(seed=5)
    else:
        settings |= change
    assert PNormFit(generator, **settings).done == 0


def test_a_smaller_fit_draws_the_first_of_the_same_samples(tiny_generator):
    fit = PNormFit(tiny_generator, 250, batch=100)
    list(fit.run())
    w = torch.cat([draw_codes(tiny_generator, i, batch=100) for i in range(3)])[:250]
    np.testing.assert_allclose(fit.moments.mean, w_to_p(w.double()).mean(0).numpy(), rtol=1e-12)
    assert len(torch.unique(w[:, 0])) == 250


def test_labels_of_conditional_generators_are_uniform():
    generator = make_tiny_generator(c_dim=3)
    seen = []
    generator.mapping.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    assert draw_codes(generator, 0, batch=3000).shape == (3000, 16)
    assert torch.equal(seen[0].sum(1), torch.ones(3000))
    assert (seen[0].mean(0) - 1 / 3).abs().max() < 0.05


def test_merging_names_what_is_wrong(tiny_generator, tmp_path):
    out = tmp_path / "x.safetensors"
    with pytest.raises(StatisticsError, match="no shards"):
        merge_shards(tiny_generator, find_shards(out))

    def run(shard, steps=None, generator=tiny_generator, **settings):
        settings = {"samples": 400, "batch": 100, "shard": shard, "partial": shard_path(out, shard)} | settings
        records = PNormFit(generator, **settings).run()
        for _ in range(steps or 100):
            next(records, None)
        records.close()

    run((0, 2))
    with pytest.raises(StatisticsError, match=r"shards 0 to 1 are needed to merge; found 0"):
        merge_shards(tiny_generator, find_shards(out))
    run((1, 2), steps=1)
    with pytest.raises(StatisticsError, match=r"shard-1-of-2.*unfinished"):
        merge_shards(tiny_generator, find_shards(out))
    run((1, 2), seed=9)
    with pytest.raises(StatisticsError, match=r"shard-1-of-2.*differ"):
        merge_shards(tiny_generator, find_shards(out))
    with pytest.raises(StatisticsError, match="another generator"):
        merge_shards(make_tiny_generator(seed=5), find_shards(out))
    run((1, 2))
    shard_path(out, (1, 2)).rename(tmp_path / "second")
    run((1, 4))
    with pytest.raises(StatisticsError, match=r"shard-1-of-4.*one of 4 shards.*shard-0-of-2.*one of 2"):
        merge_shards(tiny_generator, find_shards(out))
    shard_path(out, (1, 4)).unlink()
    (tmp_path / "second").rename(shard_path(out, (1, 2)))
    assert merge_shards(tiny_generator, find_shards(out)).n == 400


@pytest.mark.parametrize("state", ["[]", "3", "{}", '{"fingerprint": "x", "count": 4}', "text"])
def test_moments_without_their_state(tiny_generator, tmp_path, state):
    path = shard_path(tmp_path / "x.safetensors", (0, 1))
    tensors = {"mean": torch.zeros(16), "scatter": torch.zeros(16, 16)}
    save_tensors(path, tensors, {"format": "latentopt-pnorm-moments-1", "state": state})
    with pytest.raises(StatisticsError, match=r"shard-0-of-1.*damaged"):
        merge_shards(tiny_generator, [path])
    assert PNormFit(tiny_generator, 400, partial=path).done == 0


def test_too_few_samples(tiny_generator):
    with pytest.raises(StatisticsError, match="16 samples cannot span 16"):
        fit_pnorm(tiny_generator, 16)
    with pytest.warns(StatisticsWarning, match="17 samples for 16 dimensions"):
        assert fit_pnorm(tiny_generator, 17).n == 17


def test_singular_covariance_warns_and_stays_finite():
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    x[:, 3] = 0
    moments = Moments(4)
    moments.update(x)
    with pytest.warns(StatisticsWarning, match=r"condition number.*1 of 4 std"):
        pnorm = PNorm.from_moments(moments)
    assert pnorm.std[-1] > 0 and pnorm.whiten(x).isfinite().all()


@pytest.mark.parametrize(("value", "words"), [(0.0, "do not vary"), (float("nan"), "not finite")])
def test_useless_samples(value, words):
    moments = Moments(2)
    moments.update(torch.full((50, 2), value))
    with pytest.raises(StatisticsError, match=words):
        PNorm.from_moments(moments)


# --- files


def test_save_and_load(tiny_generator, tiny_pnorm, tmp_path):
    path = tmp_path / "tiny.safetensors"
    tiny_pnorm.save(path)
    loaded = PNorm.load(path, tiny_generator)
    for field in ("mean", "components", "std"):
        assert torch.equal(getattr(loaded, field), getattr(tiny_pnorm, field))
    for field in ("n", "seed", "slope", "fingerprint", "name"):
        assert getattr(loaded, field) == getattr(tiny_pnorm, field)
    assert loaded.mean.dtype == torch.float64


def test_another_generators_statistics(tiny_pnorm, tiny_generator, tmp_path):
    path = tmp_path / "tiny.safetensors"
    tiny_pnorm.save(path)
    other = make_tiny_generator(seed=5)
    with pytest.raises(StatisticsError) as error:
        PNorm.load(path, other)
    for word in (str(path), tiny_generator.fingerprint, other.fingerprint, f"fit-pnorm --network {other.source}"):
        assert word in str(error.value)
    assert "--force" not in str(error.value)  # no command takes it here
    assert PNorm.load(path, other, force=True).fingerprint == tiny_generator.fingerprint
    with pytest.raises(StatisticsError, match=r"16 dimensions.*w_dim 8"):
        PNorm.load(path, make_tiny_generator(w_dim=8), force=True)


def write_npz(path, pnorm, **changes):
    arrays = {"X_mean": pnorm.mean.float().numpy(), "X_comp": pnorm.components.numpy(), "X_stdev": pnorm.std.numpy()}
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})


def test_npz_of_existing_implementations(tiny_generator, tiny_pnorm, tmp_path):
    path = tmp_path / "ffhq_PCA.npz"
    write_npz(path, tiny_pnorm, X_var_ratio=np.ones(16))
    loaded = PNorm.load(path, tiny_generator)
    assert (loaded.fingerprint, loaded.n, loaded.name) == (None, None, "ffhq_PCA")
    torch.testing.assert_close(loaded.components, tiny_pnorm.components)
    with pytest.raises(StatisticsError, match="w_dim 8"):
        PNorm.load(path, make_tiny_generator(w_dim=8))


BAD_NPZ = {
    "missing": ({"X_comp": None}, "X_comp"),
    "not orthonormal": ({"X_comp": np.ones((16, 16))}, "orthonormal"),
    "columns only": ({"X_comp": np.eye(16)[:4]}, r"\[C,C\]"),
    "words": ({"X_mean": np.full(16, "a")}, "X_mean.*numbers"),
    "rising": ({"X_stdev": np.arange(1.0, 17)}, "falling"),
    "not finite": ({"X_mean": np.full(16, np.nan)}, "finite"),
    "scalar": ({"X_stdev": np.float64(1)}, "X_stdev"),
}


@pytest.mark.parametrize(("changes", "words"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_bad_npz(tiny_pnorm, tmp_path, changes, words):
    path = tmp_path / "bad.npz"
    write_npz(path, tiny_pnorm, **changes)
    with pytest.raises(StatisticsError, match=words) as error:
        PNorm.load(path)
    assert str(path) in str(error.value)


def test_npz_with_python_objects(tiny_pnorm, tmp_path):
    write_npz(tmp_path / "bad.npz", tiny_pnorm, X_mean=np.array([{}], dtype=object))
    with pytest.raises(UntrustedFileError, match=r"bad\.npz.*Python objects"):
        PNorm.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "absent", "foreign", "lacks", "number"])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_damaged_files(tiny_pnorm, tmp_path, kind, suffix):
    path = tmp_path / f"bad{suffix}"
    if suffix == ".npz":
        write_npz(path, tiny_pnorm)
    else:
        tiny_pnorm.save(path)
    if kind in ("foreign", "lacks", "number"):
        metadata = {"format": "another" if kind == "foreign" else "latentopt-pnorm-1"}
        metadata |= {"n": "many"} if kind == "number" else {}
        tensors = {"mean": torch.zeros(2), "std": torch.ones(2)} | (
            {} if kind == "lacks" else {"components": torch.eye(2)}
        )
        save_tensors(path, tensors, metadata)
    elif kind == "absent":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[: len(content) // 2], "text": b"hello, world", "empty": b""}[kind])
    with pytest.raises(StatisticsError) as error:
        PNorm.load(path)
    assert str(path) in str(error.value)


def test_resource_folder(tmp_path, monkeypatch):
    assert (resource_folder("recipes").parent / "pyproject.toml").is_file()  # a checkout
    monkeypatch.setattr("latentopt.files.resources.PACKAGE", tmp_path)
    (tmp_path / "recipes").mkdir()
    assert resource_folder("recipes") == tmp_path / "recipes"


def test_good_statistics_do_not_warn(tiny_generator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_pnorm(tiny_generator, 500, batch=100)
