"""Where an optimisation starts: each start's values, seeds, independence of companions, and files that do not fit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from conftest import make_encoder, make_tiny_generator, make_tiny_stylegan3
from torch import Tensor

from latentopt.checkpoints import trained_files
from latentopt.encoders import KINDS
from latentopt.encoders.files import save_encoder
from latentopt.errors import CheckpointError, UntrustedFileError, UsageError
from latentopt.initializers.lmmse import MOST, STRENGTHS, sketch
from latentopt.initializers.simple import sample_w
from latentopt.registry import FILES, INITIALIZERS
from latentopt.statistics.linear_prior import PooledFeatures
from latentopt.statistics.linear_prior_fit import fit_prior
from latentopt.statistics.pnorm_fit import fit_pnorm
from latentopt.statistics.ridge import predictions
from latentopt.types import GeneratorInputs

CASES = [(name, options) for name in INITIALIZERS for options in INITIALIZERS.declared(name).examples]


@pytest.fixture(scope="module")
def target(tiny_generator) -> Tensor:
    w = sample_w(tiny_generator, 77, 3)
    return tiny_generator.synthesis(GeneratorInputs(tiny_generator.broadcast(w)))


@pytest.fixture(scope="module")
def statistics(tiny_generator):
    return fit_pnorm(tiny_generator, 2000, batch=1000)


@pytest.fixture(scope="module")
def prior(tiny_generator, statistics):
    features = PooledFeatures(tiny_generator, "bundled", grids=(1, 1, 1, 1, 1))
    return fit_prior(tiny_generator, statistics, features, samples=40)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, statistics, prior, tiny_generator, tiny_inputs):
    """The current folder holds statistics, a prior and a saved start of one image."""
    statistics.save(tmp_path / "pnorm_stats" / "tiny.safetensors")
    prior.save(tmp_path / "pnorm_stats" / "tiny.prior.safetensors")
    tiny_inputs.index([1]).save(tmp_path / "start.safetensors")
    monkeypatch.setattr(trained_files, "BUNDLED", tmp_path / "bundled")
    for kind in KINDS:
        save_encoder(make_encoder(tiny_generator, kind), tmp_path / "bundled" / "tiny" / f"encoder-{kind}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@cache
def moving_generator():
    """Of the same sizes as the tiny one, and it draws moves of the picture."""
    return make_tiny_stylegan3(img_resolution=32, channels=(6,) * 6)


def start(name, generator, target, seeds=(1, 2, 3), **options) -> GeneratorInputs:
    generator = moving_generator() if name == "placement" else generator
    return INITIALIZERS.create(name, generator, **options)(target, seeds)


def test_every_start_is_tried():
    assert {name for name, _ in CASES} == set(INITIALIZERS.own)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_start_does_not_depend_on_companions(name, options, tiny_generator, target):
    """One latent an image, of the right shape, a tensor of its own; by seed, not by place."""
    inputs = start(name, tiny_generator, target, **options)
    assert inputs.ws.shape == (3, 8, 16)
    assert not inputs.ws.requires_grad
    again = start(name, tiny_generator, target, **options)
    assert torch.equal(again.ws, inputs.ws)
    order = [2, 0, 1]
    turned = start(name, tiny_generator, target[order], (3, 1, 2), **options)
    torch.testing.assert_close(turned.ws, inputs.ws[order], rtol=1e-5, atol=1e-6)
    alone = start(name, tiny_generator, target[1:2], (2,), **options)
    torch.testing.assert_close(alone.ws, inputs.ws[1:2], rtol=1e-5, atol=1e-6)
    if inputs.transform is not None:
        torch.testing.assert_close(turned.transform, inputs.transform[order], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.transform, inputs.transform[1:2], rtol=1e-5, atol=1e-6)
    inputs.ws.add_(1)  # written to in place: nothing else may change
    assert torch.equal(start(name, tiny_generator, target, **options).ws, again.ws)


def test_the_best_start_at_hand(tiny_generator, target, folder):
    """The e4e encoder, else the linear prior, else the mean; what it reads is part of a result's key."""
    read = FILES.load("start at hand")
    for other, options, path in (
        ("psp", {"encoder": "psp"}, "bundled/tiny/encoder-psp.safetensors"),
        ("e4e", {}, "bundled/tiny/encoder-e4e.safetensors"),
        ("linear", {}, "pnorm_stats/tiny.prior.safetensors"),
        ("mean", {}, None),
    ):
        expected, found = (start(name, tiny_generator, target, **o) for name, o in ((other, {}), ("at-hand", options)))
        assert torch.equal(found.ws, expected.ws), other
        files = [where.resolve() for where in read(tiny_generator, options.get("encoder"), options)]
        assert files == ([] if path is None else [folder / path])
        if path is not None and not options:
            (folder / path).unlink()
    with pytest.raises(CheckpointError, match="absent"):
        start("at-hand", tiny_generator, target, encoder="absent.safetensors")


def test_mean_and_p_mean(tiny_generator, target, statistics):
    mean, p_mean = (start(name, tiny_generator, target).ws for name in ("mean", "p-mean"))
    assert torch.equal(mean, tiny_generator.w_avg.expand(3, 8, 16))
    v = statistics.whiten(p_mean.double())
    assert v.abs().max() < 1e-4, "the origin of P-norm"
    assert statistics.whiten(mean.double()).abs().max() > 0.1, "the mean of w is not"


def test_samples_follow_their_seeds(tiny_generator, target):
    ws = start("sample", tiny_generator, target, (5, 5, 6)).ws
    assert torch.equal(ws[0], ws[1])
    assert not torch.equal(ws[0], ws[2])
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(ws[2], tiny_generator.mapping(z).expand(8, -1))


def test_the_best_of_many_is_the_nearest(tiny_generator):
    """The target is one of the samples: it is found, with the batch smaller than n too."""
    w = sample_w(tiny_generator, 4, 10)
    images = tiny_generator.synthesis(GeneratorInputs(tiny_generator.broadcast(w[[7, 2]])))
    for options in ({"n": 10}, {"n": 10, "batch": 3}, {"n": 10, "size": 8}):
        ws = start("best-of", tiny_generator, images, (4, 4), **options).ws
        torch.testing.assert_close(ws[:, 0], w[[7, 2]])


@pytest.mark.parametrize("name", ["sample", "best-of", "lmmse"])
def test_conditional_generators_take_a_label(name, target):
    generator = make_tiny_generator(c_dim=3)
    options = {"n": 6} if "n" in INITIALIZERS.options(name) else {}
    one, other = (start(name, generator, target, label=label, **options).ws for label in (0, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("name", ["sample", "best-of", "lmmse"])
def test_labels_that_the_generator_has_not(name, label, target):
    with pytest.raises(UsageError, match=f"label must be from 0 to 2, not {label}"):
        start(name, make_tiny_generator(c_dim=3), target, label=label)


@pytest.mark.parametrize("option", ["n", "size", "batch"])
@pytest.mark.parametrize("value", [0, -2])
def test_the_best_of_none(option, value, tiny_generator):
    with pytest.raises(UsageError, match=f"best-of: {option} must be at least 1, not {value}"):
        INITIALIZERS.create("best-of", tiny_generator, **{option: value})


def test_p_mean_without_statistics(folder, tiny_generator, target):
    (folder / "pnorm_stats" / "tiny.safetensors").rename(folder / "mine.safetensors")
    measured = start("p-mean", tiny_generator, target)
    assert (folder / "pnorm_stats" / "tiny.safetensors").is_file()
    mine = start("p-mean", tiny_generator, target, stats="mine.safetensors")
    assert (measured.ws - mine.ws).abs().max() < 0.1


# Files


def test_saved_inputs_come_back_whole(folder, tiny_generator, target, tiny_inputs):
    noise = {"b4.conv1": torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))}
    saved = tiny_inputs.index([2]).replace(noise=noise)
    saved.save(folder / "run" / "inputs.safetensors", {"fingerprint": tiny_generator.fingerprint, "name": "tiny"})
    for path in ("run", "run/inputs.safetensors"):
        found = start("file", tiny_generator, target, path=path)
        assert torch.equal(found.ws, tiny_inputs.ws[[2, 2, 2]])
        assert torch.equal(found.noise["b4.conv1"], noise["b4.conv1"].expand(3, -1, -1, -1))


def test_one_images_latent_serves_all(tiny_generator, target, tiny_inputs):
    ws = start("file", tiny_generator, target, path="start.safetensors").ws
    assert torch.equal(ws, tiny_inputs.ws[1].expand(3, -1, -1))


def test_another_generators_latents_are_refused_unless_forced(folder, tiny_generator, target, tiny_inputs):
    other = make_tiny_generator(5)
    tiny_inputs.index([1]).save(folder / "other.safetensors", {"fingerprint": other.fingerprint, "name": "other"})
    with pytest.raises(CheckpointError, match=r"other\.safetensors: made with generator .*force = true") as caught:
        start("file", tiny_generator, target, path="other.safetensors")
    assert other.fingerprint in str(caught.value)
    assert tiny_generator.fingerprint in str(caught.value)
    ws = start("file", tiny_generator, target, path="other.safetensors", force=True).ws
    assert torch.equal(ws, tiny_inputs.ws[[1, 1, 1]])
    assert torch.equal(start("file", other, target, path="other.safetensors").ws, ws)


@pytest.mark.parametrize("rows", [1, None], ids=["[1,L,C]", "[L,C]"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_projected_w(folder, tiny_generator, target, tiny_inputs, rows, dtype):
    w, path = tiny_inputs.ws[0].numpy().astype(dtype), folder / "projected_w.npz"
    np.savez(path, w=w[None] if rows else w)
    ws = start("file", tiny_generator, target, path=str(path)).ws
    assert ws.dtype == torch.float32
    torch.testing.assert_close(ws, tiny_inputs.ws[:1].expand(3, -1, -1))


def wrong_files(folder) -> dict:
    """name: (what writes it, words of the message)."""
    w = np.zeros((1, 8, 16), np.float32)
    return {
        "two.npz": (lambda p: np.savez(p, w=np.zeros((2, 8, 16))), "holds 2 latents .*entry = 0"),
        "rows.npz": (lambda p: np.savez(p, w=w[:, :7]), r"is \[1, 7, 16\]; 'tiny' takes \[8,16\]"),
        "objects.npz": (lambda p: np.savez(p, w=np.array([{}], object)), "Python objects"),
        "text.safetensors": (lambda p: p.write_text("hello"), "a text .*not latents"),
        "two.safetensors": (lambda p: GeneratorInputs(torch.zeros(2, 8, 16)).save(p), "holds 2 latents .*entry = 0"),
        "rows.safetensors": (lambda p: GeneratorInputs(torch.zeros(1, 7, 16)).save(p), r"is \[1, 7, 16\]"),
        "gone.safetensors": (lambda p: None, "no such file"),
        "gone.npz": (lambda p: None, "no such file"),
    }


@pytest.mark.parametrize("name", wrong_files(None))
def test_files_that_do_not_fit(name, folder, tiny_generator, target):
    write, words = wrong_files(folder)[name]
    write(folder / name)
    kind = UntrustedFileError if name == "objects.npz" else CheckpointError
    with pytest.raises(kind, match=words) as caught:
        start("file", tiny_generator, target, path=name)
    assert name in str(caught.value)


# Linear estimates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [5, 60], ids=["few values", "more values than samples"])
def test_ridge_regression_by_its_kernel_is_that_of_the_textbook(columns):
    rng = torch.Generator().manual_seed(2)
    x, y, wanted = (torch.randn(n, k, generator=rng).double() for n, k in ((30, columns), (30, 4), (3, columns)))
    centred = x - x.mean(dim=0)
    gram, largest = centred.T @ centred, torch.linalg.matrix_norm(centred, 2) ** 2
    found = predictions(x, y, wanted, STRENGTHS)
    for strength, row in zip(STRENGTHS.double(), found, strict=True):
        weights = torch.linalg.solve(gram + strength * largest * torch.eye(columns), centred.T @ (y - y.mean(dim=0)))
        torch.testing.assert_close(row, y.mean(dim=0) + (wanted - x.mean(dim=0)) @ weights)


def test_the_linear_estimate_is_nearer_than_the_best_of_as_many(tiny_generator, target):
    """In w, whose truth is known here."""
    w = sample_w(tiny_generator, 77, 3)
    off = {name: (start(name, tiny_generator, target, n=200).ws[:, 0] - w).norm() for name in ("lmmse", "best-of")}
    assert off["lmmse"] < 0.5 * off["best-of"]


@pytest.mark.parametrize("n", [5, 40])
def test_a_linear_estimate_is_as_likely_as_a_sample(n, tiny_generator, statistics, target):
    """In P-norm coordinates, also along those in which samples hardly differ."""
    basis = statistics.basis()
    v = basis.whiten(start("lmmse", tiny_generator, target, n=n).ws[:, 0])
    most = basis.whiten(sample_w(tiny_generator, 4, 500)).square().mean(dim=1).max()
    assert v.square().mean(dim=1).max() < most


def test_large_measurements_are_sketched():
    rng = torch.Generator().manual_seed(1)
    few, many = (torch.randn(4, m, generator=rng) for m in (MOST, 20 * MOST))
    assert sketch(few) is few
    found = sketch(many)
    assert found.shape == (4, MOST)
    torch.testing.assert_close(found @ found.T / many.shape[1], torch.eye(4), atol=0.05, rtol=0.05)


def test_a_linear_estimate_knows_no_companions(tiny_generator, target):
    together = start("lmmse", tiny_generator, target, n=20).ws
    alone = start("lmmse", tiny_generator, target[1:2], (9,), n=20).ws
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("option", "value"), [("n", 1), ("size", 0), ("batch", -1)])
def test_linear_estimates_of_too_little(option, value, tiny_generator):
    with pytest.raises(UsageError, match=f"lmmse: {option} must be at least ., not {value}"):
        INITIALIZERS.create("lmmse", tiny_generator, **{option: value})
