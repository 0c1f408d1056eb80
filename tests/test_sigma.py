"""Sigma: its files, which of several is found, the estimate against whole Jacobians, and `latentopt fit-sigma`."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import make_tiny_generator

from latentopt.checkpoints.describe import describe
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.commands import cli
from latentopt.errors import StatisticsError, UsageError
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.generators.tunable import choose_weights
from latentopt.statistics.at_hand import first_at_hand
from latentopt.statistics.curvature import Draws, outputs_of, squared_gradients
from latentopt.statistics.moments import StatisticsWarning
from latentopt.statistics.sigma import SIGMA, Sigma
from latentopt.statistics.sigma_fit import ensure_sigma, fit_sigma, inverse_root, picture_change
from latentopt.statistics.sigma_measure import measure_sigma
from latentopt.terms.perceptual import Perceptual
from latentopt.types import GeneratorInputs, View
from latentopt.watching.phases import listening

WEIGHT = "synthesis.b32.conv1.weight"


def make_sigma(generator, value=1.0, **changes):
    tensors = {WEIGHT: torch.full(generator.tunable[WEIGHT], value)}
    settings = {"tensors": tensors, "origin": "estimated", "fingerprint": generator.fingerprint} | changes
    return Sigma(**settings)


# --- files


def test_round_trip(tmp_path, tiny_generator):
    path = tmp_path / "deep" / "sigma.safetensors"
    values = torch.rand(tiny_generator.tunable[WEIGHT], dtype=torch.float64)
    card = {"samples": 3, "layers": {"a": [1.5, None]}}
    Sigma({WEIGHT: values}, "learned", tiny_generator.fingerprint, "0123456789abcdef", card).save(path)
    back = Sigma.load(path, tiny_generator)
    assert back.tensors.keys() == {WEIGHT}
    assert torch.equal(back.tensors[WEIGHT], values.float())
    assert (back.origin, back.fingerprint, back.base) == ("learned", tiny_generator.fingerprint, "0123456789abcdef")
    assert back.card == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {WEIGHT: torch.tensor([1.0, float("nan")])}}, "not finite"),
        ({"tensors": {WEIGHT: torch.tensor([1.0, float("inf")])}}, "not finite"),
        ({"tensors": {WEIGHT: torch.tensor([1.0, -1e-9])}}, "negative"),
        ({"tensors": {}}, "no weight"),
        ({"origin": "guessed"}, "learned or estimated"),
    ],
)
def test_values_that_cannot_be_sigma(tiny_generator, change, message):
    with pytest.raises(StatisticsError, match=message):
        make_sigma(tiny_generator, **change)


def test_zero_is_allowed(tiny_generator):
    assert make_sigma(tiny_generator, 0.0).tensors[WEIGHT].sum() == 0


def rewrite(path, tensors=None, **metadata):
    old, fields = load_tensors(path)
    fields = {key: value for key, value in (fields | metadata).items() if value is not None}
    save_tensors(path, old if tensors is None else tensors, fields)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "not whole"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: rewrite(path, format="latentopt-pnorm-1"), "its format is 'latentopt-pnorm-1'"),
        (lambda path: rewrite(path, format=None), "its format is None"),
        (lambda path: rewrite(path, fingerprint=None), "lacks 'fingerprint'"),
        (lambda path: rewrite(path, origin=None), "lacks 'origin'"),
        (lambda path: rewrite(path, origin="guessed"), "learned or estimated"),
        (lambda path: rewrite(path, card="{"), "not a usable sigma file"),
        (lambda path: rewrite(path, card="[1]"), "not a table"),
        (lambda path: rewrite(path, {WEIGHT: torch.tensor([-1.0])}), "negative"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, tiny_generator, damage, message):
    path = tmp_path / "s.safetensors"
    make_sigma(tiny_generator).save(path)
    damage(path)
    with pytest.raises(StatisticsError, match=message) as caught:
        Sigma.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_another_generators_is_refused(tmp_path, tiny_generator):
    path, other = tmp_path / "s.safetensors", make_tiny_generator(seed=1)
    make_sigma(tiny_generator).save(path)
    with pytest.raises(StatisticsError, match="latentopt fit-sigma --network tiny"):
        Sigma.load(path, other)
    assert Sigma.load(path, other, force=True).fingerprint == tiny_generator.fingerprint
    make_sigma(tiny_generator, base=other.fingerprint).save(path)
    assert Sigma.load(path, other).base == other.fingerprint


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [(WEIGHT, (2, 3), r"is \[2, 3\]; 'tiny' has \[6, 6, 3, 3\]"), ("synthesis.b64.x", (1,), "does not have")],
)
def test_weights_that_do_not_fit(tmp_path, tiny_generator, name, shape, message, force):
    path = tmp_path / "s.safetensors"
    make_sigma(tiny_generator, tensors={name: torch.ones(shape)}).save(path)
    with pytest.raises(StatisticsError, match=message):
        Sigma.load(path, tiny_generator, force=force)


# --- which one is found


@pytest.fixture
def places(tmp_path, tiny_generator, monkeypatch):
    """A generator's file, a folder for bundled models and a working directory; and where sigma files may lie."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("latentopt.statistics.at_hand.BUNDLED", tmp_path / "bundled")
    save_generator(tiny_generator, tmp_path / "models" / "mine.safetensors")
    files = {
        "beside": tmp_path / "models" / "sigma.safetensors",
        "stem": tmp_path / "models" / "mine.sigma.safetensors",
        "bundled": tmp_path / "bundled" / "some" / "sigma.safetensors",
        "folder": work / "sigma" / "a.safetensors",
        "folder2": work / "sigma" / "b.safetensors",
    }
    return load_generator(tmp_path / "models" / "mine.safetensors"), files


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, None),
        ({"beside": "foreign", "bundled": "foreign", "folder": "foreign"}, None),
        ({"folder": "estimated"}, "folder"),
        ({"folder": "foreign", "folder2": "estimated"}, "folder2"),
        ({"bundled": "estimated", "folder": "estimated"}, "folder"),
        ({"beside": "estimated", "stem": "estimated", "bundled": "estimated", "folder": "estimated"}, "beside"),
        ({"stem": "estimated", "bundled": "estimated"}, "stem"),
        ({"beside": "foreign", "stem": "estimated"}, "stem"),
        ({"beside": "estimated", "folder": "learned"}, "folder"),
        ({"bundled": "learned-base", "folder": "estimated"}, "folder"),
        ({"bundled": "learned-base", "folder": "estimated-base"}, "bundled"),
        ({"bundled": "estimated-base", "folder": "learned-base"}, "folder"),
        ({"beside": "learned-base", "folder": "learned"}, "folder"),
    ],
)
def test_which_sigma_is_found(places, present, expected):
    generator, files = places
    for place, kind in present.items():
        origin = kind.split("-")[0]
        fields = {"origin": "estimated"} if kind == "foreign" else {"origin": origin}
        if kind == "foreign" or kind.endswith("base"):
            fields["fingerprint"] = "f" * 16
        if kind.endswith("base"):
            fields["base"] = generator.fingerprint
        make_sigma(generator, **fields).save(files[place])
    found = first_at_hand(SIGMA, generator)
    if expected is None:
        assert found is None
    else:
        assert found[1].resolve() == files[expected].resolve()
        assert found[0].belongs_to(generator)


def test_a_generator_without_a_file(places, tiny_generator):
    make_sigma(tiny_generator).save(places[1]["folder"])
    assert first_at_hand(SIGMA, tiny_generator)[1].name == "a.safetensors"


def test_unreadable_files_on_the_way(places):
    generator, files = places
    make_sigma(generator).save(files["folder"])
    files["folder2"].write_bytes(b"nothing")
    with pytest.warns(StatisticsWarning, match=r"b\.safetensors"):
        assert first_at_hand(SIGMA, generator)[1].name == "a.safetensors"
    files["stem"].write_bytes(b"nothing")
    with pytest.raises(StatisticsError, match=r"mine\.sigma\.safetensors"):
        first_at_hand(SIGMA, generator)


def test_nothing_is_warned_of_where_all_is_well(places):
    generator, files = places
    make_sigma(generator).save(files["bundled"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_at_hand(SIGMA, generator) is not None


def test_sigma_is_made_once(places):
    """Where there is none it is estimated and kept, which is told before the work."""
    generator, files = places
    layers, told = "synthesis.b4.conv1.weight", []

    class Listener:
        tell = staticmethod(told.append)

        @contextmanager
        def phase(self, label, total, unit):
            told.append(total)
            yield told.append

    with listening(Listener()):
        sigma, path = ensure_sigma(generator, layers)
        assert path == Path("sigma/mine.safetensors") and str(path) in told[0] and told[1] == sum(told[2:]) == 256
        again, where = ensure_sigma(generator, layers)
    assert where == path and len(told) == 2 + 256 // 4
    assert sigma.origin == again.origin == "estimated" and list(sigma.tensors) == list(again.tensors) == [layers]
    make_sigma(generator, origin="learned").save(files["beside"])
    assert ensure_sigma(generator, layers)[1].resolve() == files["beside"]


# --- the estimate


SMALL = {"channels": (8, 6, 4), "z_dim": 8, "w_dim": 8}
LAYERS = "convs:2"


@pytest.fixture(scope="module")
def small():
    return make_tiny_generator(**SMALL)


def quick(generator, **options):
    return fit_sigma(generator, **({"layers": LAYERS, "samples": 6, "batch": 32} | options))


def exact_diagonal(generator, name, samples, outputs, seed=0):
    """The mean over pictures of sum_k (df_k/dtheta_i)^2, from whole Jacobians of one weight."""
    ws, _ = Draws(generator, seed, purpose=0).ws(range(samples))

    def drawn(delta, row):
        image = generator.synthesis(GeneratorInputs(row[None], deltas={name: delta[None]}))
        return torch.cat([x.flatten() for x in outputs(image)])

    zero = ws.new_zeros(generator.tunable[name])
    jacobians = (torch.func.jacfwd(drawn)(zero, row) for row in ws)
    return sum(j.square().sum(dim=0).double() for j in jacobians) / samples


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch's own forward mode asks for it
@pytest.mark.parametrize("features", ["image", "perceptual"])
@pytest.mark.parametrize("name", ["synthesis.b16.conv1.weight", "synthesis.b8.torgb.affine.bias"])
def test_curvature_is_the_diagonal_of_the_whole_jacobian(small, name, features):
    if features == "perceptual":
        small = copy.copy(small)
        small.card = {"data": "portraits"}
    samples, probes = 4, 200
    outputs, _ = outputs_of(small, features)
    halves = squared_gradients(small, (name,), outputs, samples=samples, probes=probes, batch=4)
    found, expected = (halves[0][name] + halves[1][name]) / 2, exact_diagonal(small, name, samples, outputs)
    ratio = found / expected
    error = (2 / probes) ** 0.5  # relative, of a mean of squares of nearly Gaussian sums, were all due to one picture
    assert (ratio - 1).square().mean().sqrt() < error
    assert (ratio - 1).abs().max() < 4 * error


def test_outputs_measure_pixels_and_the_perceptual_distance():
    generator = make_tiny_generator(channels=(8, 6, 4, 4, 4))
    generator.card = {"data": "portraits"}
    a, b = (generator.synthesis(GeneratorInputs(Draws(generator, 0, 0).ws(range(i, i + 3))[0])) for i in (0, 3))

    def distance(outputs):
        return sum((x - y).square().flatten(1).sum(dim=1) for x, y in zip(outputs(a), outputs(b), strict=True))

    torch.testing.assert_close(distance(outputs_of(generator, "image")[0]), (a - b).square().mean((1, 2, 3)))
    outputs, network = outputs_of(generator, "perceptual")
    term = Perceptual(generator, b)
    torch.testing.assert_close(distance(outputs), term(View(a, b, None, {}, 0.0)), rtol=1e-4, atol=1e-6)
    assert network == term.network


@pytest.mark.parametrize("features", ["image", "perceptual"])
@pytest.mark.parametrize("amount", [0.02, 0.1, 0.3])
def test_the_amount_is_reached(small, amount, features):
    small = copy.copy(small)
    small.card = {"data": "portraits"}
    sigma = quick(small, amount=amount, features=features)
    seen = picture_change(small, sigma.tensors, batch=16)
    assert abs(seen / amount - 1) < 0.02
    assert sigma.card["measured"] == pytest.approx(seen, rel=1e-3)
    fresh = picture_change(small, sigma.tensors, pictures=500, seed=5, batch=50)
    assert abs(fresh / amount - 1) < 0.25  # other pictures of a tiny generator
    assert sigma.card["first_order"] == pytest.approx(amount, rel=0.3 if amount < 0.2 else 1)


def test_first_order_is_what_the_curvature_says(small):
    """E mean_k (df_k)^2 = sum sigma_i^2 h_i: two ways to the same number."""
    names = choose_weights(small, LAYERS)
    sigma = quick(small, samples=64, batch=16, amount=0.01)
    halves = squared_gradients(small, names, outputs_of(small, "image")[0], samples=150, probes=2, seed=9, batch=25)
    h = {name: (halves[0][name] + halves[1][name]) / 2 for name in names}
    expected = sum((sigma.tensors[name].double().square() * h[name]).sum().item() for name in names) ** 0.5
    assert sigma.card["first_order"] == pytest.approx(expected, rel=0.15)
    shares = {name: (sigma.tensors[name].double().square() * h[name]).sum().item() / expected**2 for name in names}
    assert sigma.card["shares"] == pytest.approx(shares, abs=0.05)
    assert sum(sigma.card["shares"].values()) == pytest.approx(1)


def test_sigma_is_the_damped_inverse_root():
    h = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([3**0.5, 0.75**0.5, 0.3**0.5], dtype=torch.float64)  # mean 4/3, so 1/3 is added
    torch.testing.assert_close(inverse_root(h, 0.25), expected)
    assert inverse_root(torch.zeros(2), 0.1).tolist() == [0, 0]


def test_the_seed_decides_and_the_batch_does_not(small):
    first, again, batched, other = (quick(small, samples=12, **x) for x in ({}, {}, {"batch": 7}, {"seed": 1}))
    for name, values in first.tensors.items():
        assert torch.equal(values, again.tensors[name])
        torch.testing.assert_close(values, batched.tensors[name], rtol=1e-3, atol=0)
        assert not torch.allclose(values, other.tensors[name], rtol=1e-2)
    assert first.card == again.card


def test_more_samples_agree_better(small):
    few, many = (quick(small, samples=n, batch=50).card["halves"] for n in (10, 400))
    assert few < many
    assert many > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"const_size": (2, 3)},
        {"c_dim": 3},
        {"architecture": "resnet"},
        {"architecture": "orig"},
        {"conv_clamp": 256.0},
        {"demodulation": "scaled"},
    ],
    ids=str,
)
def test_any_architecture(changes):
    generator = make_tiny_generator(**SMALL, **changes)
    sigma = quick(generator, layers="all")
    assert sigma.tensors.keys() == generator.tunable.keys()
    assert sigma.fingerprint == generator.fingerprint
    assert all(x.shape == generator.tunable[name] for name, x in sigma.tensors.items())
    assert abs(picture_change(generator, sigma.tensors, batch=32) / 0.1 - 1) < 0.02


def test_labels_are_drawn():
    generator = make_tiny_generator(**SMALL, c_dim=3)
    z_only = Draws(make_tiny_generator(**SMALL), 0, 0).ws(range(4))[0]
    ws = Draws(generator, 0, 0).ws(range(4))[0]
    assert ws.shape == z_only.shape
    assert not torch.allclose(ws, z_only)


def test_sixteen_bits_are_left_aside(small):
    half = copy.deepcopy(small).set_precision(torch.bfloat16)
    expected, found = quick(small), quick(half)
    for name, values in expected.tensors.items():
        assert torch.equal(values, found.tensors[name])
    assert half.precision == torch.bfloat16
    assert found.fingerprint == small.fingerprint


def test_a_weight_without_influence_stays_put(small):
    generator = copy.deepcopy(small)
    generator.synthesis.b8.torgb.weight.zero_()
    generator.synthesis.b8.torgb.bias.zero_()
    names = "synthesis.b8.torgb.affine.*,synthesis.b16.conv1.weight"
    sigma = quick(generator, layers=names)
    assert sigma.tensors["synthesis.b8.torgb.affine.bias"].abs().max() == 0
    assert sigma.tensors["synthesis.b16.conv1.weight"].min() > 0
    with pytest.raises(StatisticsError, match="no influence"):
        quick(generator, layers="synthesis.b8.torgb.affine.*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples must be at least 2"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"amount": 0.0}, "amount"),
        ({"amount": float("nan")}, "amount"),
        ({"damping": 0.0}, "damping"),
        ({"damping": float("inf")}, "damping"),
        ({"features": "pixels"}, "not one of image, perceptual"),
        ({"layers": "synthesis.b99.*"}, "matches no weight"),
    ],
    ids=str,
)
def test_options_out_of_range(small, options, message):
    with pytest.raises(UsageError, match=message):
        quick(small, **options)


def test_an_amount_out_of_reach(small):
    with pytest.raises(StatisticsError, match="choose a smaller amount"):
        quick(small, amount=1e4, samples=2)


# --- the command


@pytest.fixture
def model(tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_generator(small, tmp_path / "small.safetensors")
    return "small.safetensors"


def fit_command(*arguments):
    options = ["--layers", LAYERS, "--samples", "4", "--batch", "32", "--device", "cpu"]
    return CliRunner().invoke(cli, ["fit-sigma", *options, *arguments])


def test_the_command(model, small):
    result = fit_command("--network", model)
    assert result.exit_code == 0, result.output
    out = Path("sigma/small.safetensors")
    expected = quick(small, samples=4)
    found, path = first_at_hand(SIGMA, load_generator(model))
    assert path == out
    for name, values in expected.tensors.items():
        assert torch.equal(found.tensors[name], values)
        row = next(line for line in result.output.splitlines() if name in line).split()
        assert row[1] == f"{values.numel():,}"
        assert float(row[3]) == pytest.approx(values.median().item(), rel=0.05)
    assert str(out) in result.output
    before = out.stat().st_mtime_ns
    again = fit_command("--network", model)
    assert "already fitted" in again.output
    assert out.stat().st_mtime_ns == before
    assert fit_command("--network", model, "--amount", "0.2").exit_code == 0
    assert Sigma.load(out).card["amount"] == 0.2


def test_what_the_command_does_not_replace(model, small):
    out = Path("sigma/small.safetensors")
    kept = {
        "sigma of another generator": make_sigma(make_tiny_generator()),
        "learned": Sigma({"synthesis.b16.conv1.weight": torch.ones(4, 4, 3, 3)}, "learned", small.fingerprint),
    }
    for message, sigma in kept.items():
        sigma.save(out)
        result = fit_command("--network", model, "--out", out)
        assert isinstance(result.exception, StatisticsError)
        assert message in str(result.exception)
        assert "--overwrite" in str(result.exception)
    out.write_bytes(b"no sigma")
    assert isinstance(fit_command("--network", model, "--out", out).exception, StatisticsError)
    assert fit_command("--network", model, "--out", out, "--overwrite").exit_code == 0
    assert Sigma.load(out).origin == "estimated"


@pytest.mark.parametrize(
    "arguments", [["--amount", "0"], ["--amount", "nan"], ["--damping", "-1"], ["--samples", "0"], ["--features", "x"]]
)
def test_bad_options_of_the_command(model, arguments):
    assert fit_command("--network", model, *arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [["--layers", "nothing.*"], ["--out", "sigma.npz"], ["--samples", "1"]])
def test_usage_errors_of_the_command(model, arguments):
    assert isinstance(fit_command("--network", model, *arguments).exception, UsageError)


def test_another_file_that_comes_first_is_named(model, small):
    name = "synthesis.b16.conv1.weight"
    Sigma({name: torch.ones(small.tunable[name])}, "learned", small.fingerprint).save(Path("sigma.safetensors"))
    result = fit_command("--network", model)
    assert "note: by default sigma.safetensors is used" in result.output


def test_info_says_what_a_sigma_file_is(model, small):
    quick(small).save(Path("s.safetensors"))
    facts = describe("s.safetensors")
    assert facts["kind"].startswith("sigma")
    assert (facts["origin"], facts["fingerprint"], facts["weights"]) == ("estimated", small.fingerprint, 2)
    assert CliRunner().invoke(cli, ["info", "s.safetensors"]).exit_code == 0


def test_an_estimate_is_kept_and_not_made_again(model, small):
    out, started = Path("sigma/mine.safetensors"), []
    settings = {"layers": LAYERS, "samples": 4, "batch": 32, "on_start": lambda: started.append(out)}
    sigma, made = measure_sigma(small, out, **settings)
    assert made and Sigma.load(out, small).card == sigma.card
    again, made = measure_sigma(small, out, **settings | {"batch": 2})
    assert not made and again.card == sigma.card and len(started) == 1
    for change in ({"probes": 2}, {"overwrite": True}):
        assert measure_sigma(small, out, **settings | {"probes": 2} | change)[1]
    make_sigma(make_tiny_generator()).save(out)
    with pytest.raises(StatisticsError, match="--overwrite"):
        measure_sigma(small, out, **settings)
    assert len(started) == 3
