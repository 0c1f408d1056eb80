"""Directions: what an edit does, their files, and those of other projects."""

from __future__ import annotations

import json
import pickle
import shlex

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator

from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.editing.coordinates import WPlus, in_w
from latentopt.editing.direction import Direction
from latentopt.editing.files import (
    FOLDER,
    add_directions,
    find_directions,
    given_or_found_directions,
    load_directions,
    read_directions,
    save_directions,
)
from latentopt.editing.ganspace import find_ganspace
from latentopt.editing.scaling import sample_codes, scaled
from latentopt.editing.spaces import EditingSpace
from latentopt.errors import CheckpointError, UntrustedFileError, UsageError
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.judge.network import load_judge
from latentopt.registry import COORDINATES
from latentopt.statistics.moments import StatisticsWarning
from latentopt.statistics.pnorm import w_to_p
from latentopt.types import GeneratorInputs


def make(generator, space="w", name="smile", seed=0, **fields) -> Direction:
    shape = COORDINATES.create(space).shape(generator.num_ws, generator.w_dim)
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Direction(name, space, vector, generator.fingerprint, generator=generator.name, **fields)


@pytest.mark.parametrize("space", list(COORDINATES))
@pytest.mark.parametrize("layers", [None, (0, 1, 2), (5,)])
def test_there_and_back(tiny_generator, tiny_inputs, space, layers):
    noise = tiny_generator.noise_const
    start = tiny_inputs.replace(noise=noise)
    there = make(tiny_generator, space, layers=layers).edit(start, 2.5)
    back = make(tiny_generator, space, layers=layers).edit(there, -2.5)
    rows = list(range(8)) if layers is None else list(layers)
    still = [row for row in range(8) if row not in rows]
    assert torch.equal(there.ws[:, still], start.ws[:, still])
    assert (there.ws[:, rows] - start.ws[:, rows]).abs().amax(dim=(0, 2)).min() > 0.1
    assert torch.allclose(back.ws, start.ws, atol=1e-5)
    assert there.noise is noise and there.deltas is None


def test_edit_moves_by_the_vector(tiny_generator, tiny_inputs):
    plain, layered, whitened = (make(tiny_generator, space) for space in ("w", "w+", "p-norm"))
    assert torch.allclose(
        plain.edit(tiny_inputs, -2).ws - tiny_inputs.ws, -2 * plain.vector.expand(3, 8, -1), atol=1e-5
    )
    assert torch.allclose(
        layered.edit(tiny_inputs, 1, [3]).ws[:, 3] - tiny_inputs.ws[:, 3], layered.vector[3], atol=1e-5
    )
    step = w_to_p(whitened.edit(tiny_inputs, 3).ws) - w_to_p(tiny_inputs.ws)
    assert torch.allclose(step, 3 * whitened.vector.expand(3, 8, -1), atol=1e-4)


def test_given_layers_replace_its_own(tiny_generator, tiny_inputs):
    direction = make(tiny_generator, layers=(0,))
    moved = (direction.edit(tiny_inputs, 1, [6, 7]).ws != tiny_inputs.ws).any(dim=2).any(dim=0)
    assert moved.nonzero().flatten().tolist() == [6, 7]


@pytest.mark.parametrize(
    ("strength", "layers", "message"),
    [(float("nan"), None, "finite"), (1, [8], "rows 0 to 7"), (1, [-1], "rows 0 to 7"), (1, [], "rows 0 to 7")],
)
def test_edit_refuses(tiny_generator, tiny_inputs, strength, layers, message):
    with pytest.raises(UsageError, match=message):
        make(tiny_generator).edit(tiny_inputs, strength, layers)


def test_edit_refuses_other_latents(tiny_generator, tiny_inputs):
    other = make_tiny_generator(w_dim=8, channels=(4, 4))
    with pytest.raises(UsageError, match="does not fit"):
        make(other).edit(tiny_inputs, 1)
    with pytest.raises(UsageError, match="does not fit"):
        Direction("x", "w+", torch.ones(3, 16), "f").edit(tiny_inputs, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"space": "z"},
        {"space": "w+"},
        {"vector": torch.zeros(16)},
        {"vector": torch.full((16,), torch.nan)},
        {"layers": ()},
        {"layers": (-1,)},
        {"slope": 0.0},
    ],
)
def test_no_such_direction(fields):
    with pytest.raises(CheckpointError):
        Direction(**{"name": "x", "space": "w", "vector": torch.ones(16), "fingerprint": "f"} | fields)


@pytest.mark.parametrize("mixed", [False, True])
def test_strength_is_one_standard_deviation_of_the_samples(tiny_generator, mixed):
    codes = sample_codes(tiny_generator, 3, 4000, mixed)
    assert codes.shape == ((4000, 8, 16) if mixed else (4000, 16))
    vector = scaled(torch.randn(codes.shape[1:], generator=torch.Generator().manual_seed(0)) * 7, codes)
    along = codes.flatten(1) @ vector.flatten() / vector.norm()
    assert along.std().item() == pytest.approx(vector.norm().item(), rel=1e-4)
    with pytest.raises(UsageError, match="do not vary"):
        scaled(vector, codes[:1].expand_as(codes))


def test_mixed_samples_hold_two_styles(tiny_generator):
    codes = sample_codes(tiny_generator, 0, 50, mixed=True)
    changes = (codes[:, 1:] != codes[:, :-1]).any(dim=2).sum(dim=1)
    assert (changes == 1).all()


class Halves(WPlus):
    """One vector for the first half of the rows: coordinates of one's own."""

    layered = False

    def straight(self, w):
        return w * 2

    def back(self, x):
        return x / 2

    def flat(self, codes, generator, pnorm):
        return super().flat(codes, generator, pnorm)[:, : generator.w_dim]


def test_coordinates_of_ones_own_are_one_class_and_one_line(tmp_path, tiny_generator, tiny_inputs, monkeypatch):
    monkeypatch.setitem(COORDINATES.own, "halves", f"{__name__}:Halves")
    (found,) = find_ganspace(EditingSpace("halves", tiny_generator), components=1, samples=100)
    assert found.space == "halves"
    save_directions(tmp_path / "d.safetensors", [found])
    again = load_directions(tmp_path / "d.safetensors", tiny_generator)["pc0"]
    moved = again.edit(tiny_inputs, 3).ws - tiny_inputs.ws
    torch.testing.assert_close(moved, (1.5 * found.vector).expand_as(moved), rtol=1e-4, atol=1e-5)


def test_how_coordinates_lie_in_w(tiny_generator):
    """There and back, and which kind a foreign vector of W is one of."""
    w = sample_codes(tiny_generator, 0, 5)
    for name in COORDINATES:
        kind = COORDINATES.create(name)
        torch.testing.assert_close(kind.back(kind.straight(w)), w)
        assert torch.equal(kind.straight(w), w) == kind.linear
    assert (in_w(layered=False), in_w(layered=True)) == ("w", "w+")


# ---- files


def test_files_keep_everything(tmp_path, tiny_generator):
    first = make(tiny_generator, "w+", layers=(1, 2), method="interfacegan", score=0.9, about={"n": 100, "seed": 3})
    second = make(tiny_generator, "p-norm", name="yaw", seed=1, slope=0.3)
    save_directions(tmp_path / "d.safetensors", [first, second])
    loaded = load_directions(tmp_path / "d.safetensors", tiny_generator)
    assert list(loaded) == ["smile", "yaw"]
    for direction in (first, second):
        again = loaded[direction.name]
        assert torch.equal(again.vector, direction.vector)
        fields = ("space", "layers", "fingerprint", "generator", "method", "score", "about", "slope")
        assert [getattr(again, f) for f in fields] == [getattr(direction, f) for f in fields]


def test_foreign_generator_refused_unless_forced(tmp_path, tiny_generator):
    save_directions(tmp_path / "d.safetensors", [make(tiny_generator)])
    other = make_tiny_generator(seed=1)
    with pytest.raises(CheckpointError, match=r"d\.safetensors.*belongs to generator 'tiny'.*--force"):
        load_directions(tmp_path / "d.safetensors", other)
    forced = load_directions(tmp_path / "d.safetensors", other, force=True)["smile"]
    assert forced.fingerprint == other.fingerprint
    assert forced.about["forced"]["fingerprint"] == tiny_generator.fingerprint
    with pytest.raises(CheckpointError, match="ask for"):
        load_directions(tmp_path / "d.safetensors", make_tiny_generator(w_dim=8), force=True)


def test_save_refuses(tmp_path, tiny_generator):
    for directions in (
        [],
        [make(tiny_generator)] * 2,
        [make(tiny_generator), make(make_tiny_generator(seed=1), name="b")],
    ):
        with pytest.raises(ValueError):
            save_directions(tmp_path / "d.safetensors", directions)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "latentopt-delta-1"},
        {"directions": "{"},
        {"directions": "[]"},
        {"directions": json.dumps({"other": {}})},
        {"directions": json.dumps({"smile": {"space": "w"}})},
        {"directions": json.dumps({"smile": {"space": "q", "layers": None, "method": "", "score": None, "about": {}}})},
        {"directions": "[" * 5000},
    ],
)
def test_damaged_files(tmp_path, tiny_generator, change):
    path = tmp_path / "d.safetensors"
    save_directions(path, [make(tiny_generator)])
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | change)
    with pytest.raises(CheckpointError, match=r"d\.safetensors"):
        read_directions(path)


def test_found_by_fingerprint_nearest_first(tmp_path, monkeypatch, tiny_generator_copy, recwarn):
    generator = tiny_generator_copy
    save_generator(generator, tmp_path / "net" / "tiny.safetensors")
    generator.source = str(tmp_path / "net" / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    assert find_directions(generator) == {}
    save_directions(tmp_path / "directions" / "a.safetensors", [make(generator, seed=1), make(generator, name="yaw")])
    save_directions(tmp_path / "net" / "tiny.directions.safetensors", [make(generator, seed=2)])
    save_directions(tmp_path / "directions" / "b.safetensors", [make(make_tiny_generator(seed=1), name="other")])
    assert not recwarn.list
    (tmp_path / "directions" / "c.safetensors").write_bytes(b"no file")
    with pytest.warns(StatisticsWarning, match=r"c\.safetensors"):
        found = find_directions(generator)
    assert set(found) == {"smile", "yaw"}
    assert torch.equal(found["smile"].vector, make(generator, seed=2).vector)


# ---- other projects' files


def foreign_files(folder, w_dim, num_ws):
    rng = np.random.default_rng(0)
    one, many = rng.normal(size=(1, w_dim)), rng.normal(size=(5, 1, w_dim)).astype(np.float32)
    np.save(folder / "age_boundary.npy", one)
    np.save(folder / "wplus.npy", rng.normal(size=(1, num_ws * w_dim)).astype(np.float32))
    torch.save(torch.from_numpy(one).float(), folder / "age.pt")
    torch.save(torch.from_numpy(one).float()[None].repeat(1, num_ws, 1), folder / "pose.pt")
    torch.save({"comp": torch.from_numpy(many), "std": torch.ones(5)}, folder / "pca.pt")
    torch.save({"ckpt": "x", "eigvec": torch.from_numpy(rng.normal(size=(w_dim, w_dim)))}, folder / "factor.pt")
    np.savez_compressed(folder / "official.npz", lat_comp=many, lat_stdev=np.ones(5))
    return one[0], many[:, 0]


@pytest.mark.parametrize(
    ("name", "names", "space"),
    [
        ("age_boundary.npy", ["age_boundary"], "w"),
        ("wplus.npy", ["wplus"], "w+"),
        ("age.pt", ["age"], "w"),
        ("pose.pt", ["pose"], "w"),
        ("pca.pt", [f"pca-{i}" for i in range(5)], "w"),
        ("factor.pt", [f"factor-{i}" for i in range(16)], "w"),
        ("official.npz", [f"official-{i}" for i in range(5)], "w"),
    ],
)
def test_other_projects_files(tmp_path, tiny_generator, name, names, space):
    one, many = foreign_files(tmp_path, 16, 8)
    with pytest.raises(CheckpointError, match="does not say which generator"):
        load_directions(tmp_path / name, tiny_generator)
    loaded = load_directions(tmp_path / name, tiny_generator, force=True)
    assert list(loaded) == names
    assert {d.space for d in loaded.values()} == {space}
    expected = {"age": one, "age_boundary": one, "pose": one, "pca-3": many[3], "official-4": many[4]}
    for key in expected.keys() & loaded.keys():
        vector = loaded[key].vector
        cosine = torch.cosine_similarity(vector, torch.from_numpy(expected[key]).float(), dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-5)
        along = sample_codes(tiny_generator) @ vector / vector.norm()
        assert along.std().item() == pytest.approx(vector.norm().item(), rel=1e-4)


ONE, LAYERED = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(3)).split([1, 1])
ONE, LAYERED = ONE[0, :1], LAYERED[0]  # [1,C], [L,C]
EDIT = {"lat_comp": ONE.numpy()[None], "lat_stdev": np.ones(1)}  # one of GANSpace


@pytest.mark.parametrize(
    ("contents", "names", "layers"),
    [
        ({"05_Bangs": ONE, "31_Smiling": -ONE}, ["Bangs", "Smiling"], None),
        ({"1_a": ONE, "2_a": -ONE}, ["1_a", "2_a"], None),
        ({"age.npy": ONE, "wide": LAYERED, "note": "x", "n": 3}, ["age", "wide"], None),
        ({"boundary": ONE, "intercept": 0.5}, ["mine"], None),
        ([ONE, LAYERED], ["mine-0", "mine-1"], None),
        (torch.cat([ONE, -ONE, ONE * 2]), ["mine-0", "mine-1", "mine-2"], None),
        (torch.stack([LAYERED, -LAYERED]), ["mine-0", "mine-1"], None),
        (ONE.T, ["mine"], None),
        (ONE[0].double(), ["mine"], None),
        (ONE[0].bfloat16(), ["mine"], None),
        ({"lat_comp": ONE[None], "edit_start": 0, "edit_end": 5}, ["mine"], (0, 1, 2, 3, 4)),
        ({"lat_comp": ONE[None], "edit_start": 6, "edit_end": -1}, ["mine"], (6, 7)),
        ({"lat_comp": ONE[None], "edit_start": None, "edit_end": None}, ["mine"], None),
        (
            {"Smile": {"lat_comp": ONE, "edit_start": 2, "edit_end": 4}, "Age": {"lat_comp": ONE}},
            ["Smile", "Age"],
            (2, 3),
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".npy"])
def test_every_arrangement_of_directions(contents, names, layers, suffix, tmp_path, tiny_generator):
    torch.save(contents, tmp_path / f"mine{suffix}")
    found = load_directions(tmp_path / f"mine{suffix}", tiny_generator, force=True)
    assert list(found) == names and found[names[0]].layers == layers


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: torch.save(torch.zeros(1, 512), p), r"\[1, 512\].*ask for \[16\] or \[8,16\].*--network"),
        (lambda p: torch.save(torch.zeros(16, 8), p), r"\[16, 8\].*ask for"),
        (lambda p: torch.save(ONE * float("nan"), p), "not finite"),
        (lambda p: torch.save(ONE.long(), p), "no real numbers"),
        (lambda p: torch.save(torch.zeros(0, 16), p), "no real numbers"),
        (lambda p: torch.save({}, p), "no direction"),
        (lambda p: torch.save({"a": ONE, "b": torch.ones(3, 5)}, p), r"b is \[3, 5\]"),
        (lambda p: torch.save({"lat_comp": ONE, "edit_start": 9, "edit_end": 12}, p), "rows 9 to 12"),
        (lambda p: torch.save({"ws": LAYERED[None]}, p), "latents of images"),
        (lambda p: GeneratorInputs(LAYERED[None]).save(p, {"fingerprint": "x"}), "latents of an image"),
        (lambda p: save_generator(make_tiny_generator(), p), "a generator of latentopt, not directions"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9)), "a picture"),
        (lambda p: p.write_text("smile=1"), "a text"),
        (lambda p: p.write_bytes(b""), "an empty file"),
    ],
)
def test_what_holds_no_directions(write, words, tmp_path, tiny_generator):
    write(tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_directions(tmp_path / "mine.pt", tiny_generator, force=True)
    assert str(caught.value).startswith(str(tmp_path / "mine.pt"))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda p: p.write_bytes(pickle.dumps({**EDIT, "edit_start": 0, "edit_end": 5})), "Smile"),
        (lambda p: np.save(p.open("wb"), {"Smile": ONE.numpy()}, allow_pickle=True), "Smile"),
        (lambda p: p.write_bytes(pickle.dumps(ONE.numpy())), "Smile"),
    ],
)
def test_pickled_directions_are_refused_and_the_remedy_works(write, name, tmp_path, tiny_generator, monkeypatch):
    write(tmp_path / "Smile.pkl")
    with pytest.raises(UntrustedFileError, match="nothing was run") as caught:
        load_directions(tmp_path / "Smile.pkl", tiny_generator, force=True)
    lines = str(caught.value).splitlines()
    exec(shlex.split(lines[1])[2], {})
    (found,) = load_directions(lines[2].removeprefix("and give "), tiny_generator, force=True).values()
    assert found.layers in (None, (0, 1, 2, 3, 4))
    assert torch.cosine_similarity(found.vector, ONE[0], dim=0).item() == pytest.approx(1, abs=1e-5)


def test_foreign_files_of_other_dimensions(tmp_path):
    foreign_files(tmp_path, 16, 8)
    for name in ("age.pt", "wplus.npy", "pca.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_directions(tmp_path / name, make_tiny_generator(w_dim=12), force=True)


@pytest.mark.parametrize(
    ("name", "write", "error"),
    [
        ("a.npy", lambda p: np.save(p, np.array([object()]), allow_pickle=True), UntrustedFileError),
        ("a.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01"), CheckpointError),
        ("a.npy", lambda p: np.save(p, np.array(["text"])), CheckpointError),
        ("a.npy", lambda p: np.save(p, np.zeros((1, 16))), CheckpointError),
        ("a.pt", lambda p: torch.save({"latents": torch.ones(16)}, p), CheckpointError),
        ("a.pt", lambda p: torch.save([1, 2], p), CheckpointError),
        ("a.pt", lambda p: p.write_bytes(pickle.dumps(print)), (CheckpointError, UntrustedFileError)),
        ("a.npz", lambda p: np.savez(p, other=np.ones(3)), CheckpointError),
    ],
)
def test_hostile_and_damaged_files(tmp_path, tiny_generator, name, write, error):
    write(tmp_path / name)
    with pytest.raises(error, match=name):
        load_directions(tmp_path / name, tiny_generator, force=True)


# ---- the bundled ones


@pytest.mark.parametrize("name", ["portraits", "portraits-wrangan"])
def test_bundled_directions_are_their_generators(name):
    generator = load_generator(name)
    found = find_directions(generator)
    assert {"yaw", "smile", "glasses", "beard", "hair_length", "light_direction"} <= found.keys()
    for direction in found.values():
        direction.check(generator)
        assert direction.score > 0.9 and max(direction.layers) < generator.num_ws
        assert {"judge", "samples", "seed", "licence"} <= set(direction.about)
        if direction.method == "ganalyze":
            assert direction.about["response"] > 0.5 > direction.about["drift"]
    assert list(load_directions(name, generator)) == list(found)


def test_bundled_directions_do_what_they_are_named_after():
    """More of it at +1 than at -1, by the judge, in the mean of a few samples: about half a deviation a unit."""
    generator, judge = load_generator("portraits"), load_judge("portraits")
    start = GeneratorInputs(generator.broadcast(sample_codes(generator, 5, 6)))
    reference = generator.broadcast(sample_codes(generator, 6, 100))
    spread = judge(generator.synthesis(GeneratorInputs(reference)))[0].std(dim=0)
    for name, direction in find_directions(generator).items():
        column = judge.config.attributes.index(name)
        more, less = (judge(generator.synthesis(direction.edit(start, s)))[0][:, column].mean().item() for s in (1, -1))
        assert (more - less) / 2 > 0.4 * spread[column], name


def test_found_directions_are_added_to_a_file(tmp_path, tiny_generator):
    path = tmp_path / "d.safetensors"
    add_directions(path, [make(tiny_generator), make(tiny_generator, name="yaw")], tiny_generator)
    add_directions(path, [make(tiny_generator, seed=1), make(tiny_generator, name="age")], tiny_generator)
    found = load_directions(path, tiny_generator)
    assert list(found) == ["yaw", "smile", "age"]
    assert torch.equal(found["smile"].vector, make(tiny_generator, seed=1).vector), "the later of a name"
    other = make_tiny_generator(seed=7)
    with pytest.raises(CheckpointError, match="name another file"):
        add_directions(path, [make(other)], other)
    assert list(load_directions(path, tiny_generator)) == list(found)


def test_directions_given_or_found(tmp_path, monkeypatch, tiny_generator):
    monkeypatch.chdir(tmp_path)
    save_directions(FOLDER / "a.safetensors", [make(tiny_generator)])
    for name in ("b", "c"):
        save_directions(tmp_path / f"{name}.safetensors", [make(tiny_generator, name=name)])
    assert list(given_or_found_directions(tiny_generator, [], False)) == ["smile"]
    assert list(given_or_found_directions(tiny_generator, ["b.safetensors", "c.safetensors"], False)) == ["b", "c"]
    other = make_tiny_generator(seed=7)
    with pytest.raises(CheckpointError):
        given_or_found_directions(other, ["b.safetensors"], False)
    assert list(given_or_found_directions(other, ["b.safetensors"], True)) == ["b"]
