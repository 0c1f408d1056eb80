"""Edits by single channels of StyleSpace, and the search for them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator

from latentopt.checkpoints.networks import save_generator
from latentopt.editing import channels as module
from latentopt.editing.channels import Channel, find_channels, sampled_styles, with_channels
from latentopt.editing.scaling import sample_codes
from latentopt.editing.sequence import apply_edits, parse_edit, parse_sweep
from latentopt.errors import UsageError
from latentopt.parameterizations.styles import S, WPlusPlus
from latentopt.types import GeneratorInputs

FIGURES = ("score", "response")


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(8, 6, 4))


@pytest.fixture(scope="module")
def inputs(generator):
    w = sample_codes(generator, 3, 2)
    return GeneratorInputs(generator.broadcast(w))


@pytest.fixture(scope="module")
def pictures(generator):
    return generator.synthesis(GeneratorInputs(generator.broadcast(sample_codes(generator, 9, 100)))).clamp(-1, 1)


@pytest.mark.parametrize("space", [None, S, WPlusPlus])
def test_one_channel_is_moved_and_nothing_else(space, generator, inputs):
    start = inputs if space is None else space(generator).decode(space(generator).encode(inputs), inputs)
    edit = parse_edit("s:b8.conv1:3=+5")
    channels = with_channels({}, [edit.name], generator)
    edited = apply_edits(start, [edit], channels)
    before, after = generator.styles(start), generator.styles(edited)
    std = sampled_styles(generator, sample_codes(generator), ["b8.conv1"])["b8.conv1"][:, 3].std()
    for layer, style in before.items():
        moved = after[layer] - style
        expected = torch.zeros_like(moved)
        if layer == "b8.conv1":
            expected[..., 3] = 5 * std
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(generator.synthesis(edited), generator.synthesis(start))
    back = apply_edits(edited, [parse_edit("s:b8.conv1:3=-5")], channels)
    torch.testing.assert_close(generator.synthesis(back), generator.synthesis(start), rtol=1e-4, atol=1e-4)
    assert [one.name for one in parse_sweep("s:b8.conv1:3=-2..2:3")] == ["s:b8.conv1:3"] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("s:b8.conv1", "write it as s:LAYER:NUMBER"),
        ("s:b8.conv1:x", "write it as s:LAYER:NUMBER"),
        ("s:b8.conv7:1", "no layer 'b8.conv7'; did you mean 'b8.conv"),
        ("s:b8.conv1:99", "has the channels 0 to 5"),
        ("s:b8.conv1:" + "9" * 5000, r"s:b8.conv1:9{49}\.\.\.' is no channel"),
        ("s:b8.conv1:\u0663", "write it as s:LAYER:NUMBER"),  # int() takes digits of other scripts
        ("s:b8.conv1:-1", "write it as s:LAYER:NUMBER"),
    ],
)
def test_channels_that_are_not_there(name, words, generator):
    with pytest.raises(UsageError, match=words):
        Channel.parse(name, generator)


def test_rows_and_strengths_that_a_channel_does_not_take(generator, inputs):
    channel = Channel.parse("s:b8.conv1:0", generator)
    with pytest.raises(UsageError, match="belongs to its own layer"):
        channel.edit(inputs, 1.0, [0])
    with pytest.raises(UsageError, match="finite number"):
        channel.edit(inputs, float("nan"))


def silenced(generator, name, parameter):
    """A copy in which one channel does nothing ("weight": the convolution's), or does not vary ("affine.weight")."""
    _, layer, channel = name.split(":")
    changed = copy.deepcopy(generator)
    _, part = changed.synthesis.modulated[layer]
    with torch.no_grad():
        if parameter == "weight":
            part.weight[:, int(channel)] = 0
        else:
            part.affine.weight[int(channel)] = 0
    return changed


def test_a_channel_that_does_not_vary_is_refused(generator):
    dead = silenced(generator, "s:b8.conv1:2", "affine.weight")
    with pytest.raises(UsageError, match=r"s:b8\.conv1:2: a channel that does not vary"):
        Channel.parse("s:b8.conv1:2", dead)
    assert Channel.parse("s:b8.conv1:3", dead) == Channel.parse("s:b8.conv1:3", generator)
    assert "s:b8.conv1:2" not in [one.name for one in find_channels(dead, Reads(), "red", samples=100, top=1000)]


def test_the_class_of_a_conditional_generator():
    conditional = make_tiny_generator(channels=(8, 6, 4), c_dim=3)
    stds = [Channel.parse("s:b8.conv1:3", conditional, label=label).std for label in range(3)]
    assert len(set(stds)) == 3 and Channel.parse("s:b8.conv1:3", conditional).std == stds[0]
    found = [find_channels(conditional, Reads(), "red", samples=100, top=1000, label=label) for label in (0, 2)]
    scores, responses = ([{one.name: getattr(one, field) for one in part} for part in found] for field in FIGURES)
    assert scores[0].keys() == scores[1].keys() and scores[0] != scores[1] and responses[0] != responses[1]
    with pytest.raises(UsageError, match="label must be from 0 to 2"):
        find_channels(conditional, Reads(), "red", label=3)


class Reads:
    """Two attributes that every picture has."""

    attributes = ("brightness", "red")
    binary_attributes = ()

    def read(self, image):
        return torch.stack([image.mean(dim=(1, 2, 3)), image[:, 0].mean(dim=(1, 2))], dim=1)


def test_the_channels_found_move_the_attribute(generator, pictures):
    found = find_channels(generator, Reads(), "brightness", samples=300, top=5)
    assert len(found) == 5 and all(one.noticeable for one in found)
    assert [abs(one.response) for one in found] == sorted((abs(one.response) for one in found), reverse=True)
    assert find_channels(generator, Reads(), "brightness", samples=300, top=5) == found
    ws = GeneratorInputs(generator.broadcast(sample_codes(generator, 9, 100)))
    deviation = Reads().read(pictures).std(dim=0)
    for one in found:
        channel = Channel.parse(one.name, generator)
        more, less = (Reads().read(generator.synthesis(channel.edit(ws, s)).clamp(-1, 1)) for s in (3, -3))
        response, other = ((more - less).mean(dim=0) / 2 / deviation).tolist()
        assert one.response == pytest.approx(response, rel=0.4, abs=0.1), "on samples that it was not found with"
        assert one.drift == pytest.approx(abs(other), rel=0.4, abs=0.1) and one.drifting == "red"


def test_what_only_goes_with_the_attribute_is_not_found(generator):
    """One channel has the values of another and does nothing."""
    idle = silenced(generator, "s:b8.conv1:2", "weight")
    affine = idle.synthesis.modulated["b8.conv1"][1].affine
    with torch.no_grad():
        affine.weight[2], affine.bias[2] = affine.weight[0], affine.bias[0]
    every = find_channels(idle, Reads(), "brightness", samples=300, top=1000)
    found = {one.name: one for one in every}
    shadow, shadowed = found["s:b8.conv1:2"], found["s:b8.conv1:0"]
    assert shadow.score == pytest.approx(shadowed.score) and abs(shadowed.response) > 0.1
    assert abs(shadow.response) < 1e-3 and shadow.drift < 1e-3 and not shadow.noticeable
    assert every.index(shadow) > len(every) / 2
    few = find_channels(idle, Reads(), "brightness", samples=300, candidates=4)
    assert {one.name for one in few} == {one.name for one in sorted(every, key=lambda one: -abs(one.score))[:4]}


def test_pictures_of_which_nothing_is_read_do_not_count(generator, pictures):
    """The judge finds nothing in the darkest quarter: sorted, what is no number would come after the brightest."""
    darkest = Reads().read(pictures)[:, 0].quantile(0.25)

    def read(self, image):
        found = Reads.read(self, image)
        return torch.where(found[:, :1] < darkest, torch.nan, found)

    every = find_channels(generator, Reads(), "brightness", samples=500, top=1000)
    found = {one.name: one for one in find_channels(generator, changed(read=read), "brightness", samples=500, top=1000)}
    for field in FIGURES:
        pairs = torch.tensor([[getattr(one, field), getattr(found[one.name], field)] for one in every])
        assert torch.corrcoef(pairs.T)[0, 1] > 0.8, field


def changed(**fields):
    return type("Changed", (Reads,), fields)()


def fails(self, image):
    raise ZeroDivisionError("no eyes")


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (changed(read=lambda self, image: Reads.read(self, image) * torch.nan), "red: 0 of 50 samples .* are too few"),
        (changed(read=lambda self, image: torch.ones(len(image), 2)), "red: the judge reads the same of all samples"),
        (changed(read=fails, name="eyes"), r"judge 'eyes': read\(\) failed for .* \(ZeroDivisionError: no eyes\)"),
        (changed(attributes="red"), "judge 'Changed': attributes must be a tuple of names"),
        ("no_such_module:judge", "no_such_module"),
    ],
)
def test_judges_that_tell_nothing(judge, words, generator):
    with pytest.raises(UsageError, match=words):
        find_channels(generator, judge, "red", samples=50)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attribute": "rde"}, "no attribute 'rde'; did you mean 'red'"),
        ({"samples": 3}, "too few"),
        ({"samples": -5}, "samples must be from 1 to 100000, not -5"),
        ({"samples": 10**9}, "samples must be from 1 to 100000"),
        ({"samples": 99.5}, "samples must be a whole number"),
        ({"top": -1}, "top must be at least 1, not -1"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"seed": 2**64}, "seed must be"),
    ],
)
def test_searches_that_cannot_be_meant(options, words, generator):
    with pytest.raises(UsageError, match=words):
        find_channels(generator, Reads(), **{"attribute": "red"} | options)


def test_seeds_of_numpy_and_judges_by_name(generator, tmp_path, monkeypatch):
    (tmp_path / "channel_judge.py").write_text(
        "class Mine:\n"
        "    attributes, binary_attributes = ('red-ness',), ()\n"
        "    def read(self, image): return image[:, :1].mean(dim=(2, 3)).numpy()\n"
        "def make(): return Mine()\n"
        "def broken(): return {}['judge']\n"
    )
    monkeypatch.chdir(tmp_path)
    found = find_channels(generator, "channel_judge:make", "red_ness", samples=100, top=3, seed=np.int64(3))
    expected = find_channels(generator, Reads(), "red", samples=100, top=3, seed=3)
    assert [one.name for one in found] == [one.name for one in expected]
    assert all(one.drift == 0 and one.drifting == "" for one in found), "there is no other attribute"
    with pytest.raises(UsageError, match=r"cannot be had \(KeyError: 'judge'\)"):
        find_channels(generator, "channel_judge:broken", "red")


def test_the_command(tmp_path, monkeypatch, latentopt):
    (tmp_path / "command_judge.py").write_text(
        "import torch\n"
        "class Mine:\n"
        "    attributes, binary_attributes = ('green', 'light'), ('light',)\n"
        "    def read(self, image): return torch.stack(\n"
        "        [image[:, 1].mean(dim=(1, 2)), image.mean(dim=(1, 2, 3)).sigmoid()], dim=1)\n"
        "def make(): return Mine()\n"
    )
    monkeypatch.chdir(tmp_path)
    save_generator(make_tiny_generator(channels=(8, 6, 4), c_dim=3), tmp_path / "tiny.safetensors")
    arguments = ("directions", "channels", "--network", "tiny.safetensors", "--judge", "command_judge:make")
    options = ("--attribute", "light", "--samples", "100", "--top", "3", "--device", "cpu", "-q")
    code, out, err = latentopt(*arguments, *options)
    head, *lines = [line.split() for line in out.splitlines()]
    assert code == 0 and not err and head == ["channel", "score", "response", "drift"]
    assert len(lines) == 3 and all(line[0].startswith("s:b") and line[4] == "green" for line in lines)
    assert latentopt(*arguments, *options, "--class", "2")[1] != out
    code, _, err = latentopt(*arguments, *options, "--class", "3")
    assert code == 2 and "label must be from 0 to 2" in err
    code, _, err = latentopt(*arguments, *options, "--samples", "1e9")
    assert code == 2 and "samples must be from 1 to 100000" in err
    monkeypatch.setattr(module, "NOTICEABLE", 100.0)
    code, _, err = latentopt(*arguments, *options)
    assert code == 0 and "no single channel moves light noticeably" in err
