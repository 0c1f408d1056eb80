"""Sigma files: round trip, bad ones, and which of several is found."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import make_tiny_generator

from latentopt import sigma as sigma_module
from latentopt.errors import StatisticsError
from latentopt.generators.checkpoints import load_generator, save_generator
from latentopt.moments import StatisticsWarning
from latentopt.sigma import Sigma, find_sigma
from latentopt.storage import load_tensors, save_tensors

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
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "not a readable"),
        (lambda path: path.write_bytes(b""), "not a readable"),
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
    monkeypatch.setattr(sigma_module, "BUNDLED", tmp_path / "bundled")
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
        ({"bundled": "estimated", "folder": "estimated"}, "bundled"),
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
    found = find_sigma(generator)
    if expected is None:
        assert found is None
    else:
        assert found[1].resolve() == files[expected].resolve()
        assert found[0].belongs_to(generator)


def test_a_generator_without_a_file(places, tiny_generator):
    make_sigma(tiny_generator).save(places[1]["folder"])
    assert find_sigma(tiny_generator)[1].name == "a.safetensors"


def test_unreadable_files_on_the_way(places):
    generator, files = places
    make_sigma(generator).save(files["folder"])
    files["folder2"].write_bytes(b"nothing")
    with pytest.warns(StatisticsWarning, match=r"b\.safetensors"):
        assert find_sigma(generator)[1].name == "a.safetensors"
    files["stem"].write_bytes(b"nothing")
    with pytest.raises(StatisticsError, match=r"mine\.sigma\.safetensors"):
        find_sigma(generator)


def test_nothing_is_warned_of_where_all_is_well(places):
    generator, files = places
    make_sigma(generator).save(files["bundled"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_sigma(generator) is not None
