"""Edits by single channels of StyleSpace, and the search for them."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tiny_generator

from latentopt.editing.channels import Channel, find_channels, sampled_styles, with_channels
from latentopt.editing.scaling import sample_codes
from latentopt.editing.sequence import apply_edits, parse_edit, parse_sweep
from latentopt.errors import UsageError
from latentopt.parameterizations.styles import S, WPlusPlus
from latentopt.types import GeneratorInputs


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(8, 6, 4))


@pytest.fixture(scope="module")
def inputs(generator):
    w = sample_codes(generator, 3, 2)
    return GeneratorInputs(generator.broadcast(w))


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


class Reads:
    """An attribute that is one channel's value, seen through the picture of a generator that shows it."""

    attributes = ("brightness", "red")
    binary_attributes = ()

    def read(self, image):
        return torch.stack([image.mean(dim=(1, 2, 3)), image[:, 0].mean(dim=(1, 2))], dim=1)


def test_the_channels_found_move_the_attribute(generator, inputs):
    found = find_channels(generator, Reads(), "brightness", samples=300, top=5)
    assert len(found) == 5
    assert [abs(one.score) for one in found] == sorted((abs(one.score) for one in found), reverse=True)
    assert find_channels(generator, Reads(), "brightness", samples=300, top=5) == found
    with pytest.raises(UsageError, match="no attribute 'rde'; did you mean 'red'"):
        find_channels(generator, Reads(), "rde")
    with pytest.raises(UsageError, match="too few"):
        find_channels(generator, Reads(), "red", samples=3)
