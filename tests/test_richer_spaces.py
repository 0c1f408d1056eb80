"""Style space, one w a filter, one z a layer, and features: what they hold, and what is done with such results."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import make_tiny_generator, make_tiny_stylegan3

import latentopt as package
from latentopt.checkpoints.saved_inputs import check_inputs
from latentopt.editing.direction import Direction
from latentopt.editing.mixing import interpolate, mix
from latentopt.errors import CheckpointError, UsageError
from latentopt.loop.joint import Joint
from latentopt.parameterizations.features import nearest_in_l1
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import latent_spaces, with_space
from latentopt.registry import PARAMETERIZATIONS
from latentopt.types import GeneratorInputs

SPACES = ["s", "w++", "z+", "f", "w+"]
each = pytest.mark.parametrize("space", SPACES)


def lens_of(space, generator, **options):
    return PARAMETERIZATIONS.create(space, generator, **options)


@pytest.fixture(scope="module", params=[make_tiny_generator, make_tiny_stylegan3], ids=["StyleGAN2", "StyleGAN3"])
def generator(request):
    return request.param()


@pytest.fixture(scope="module")
def inputs(generator):
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(4))
    return GeneratorInputs(generator.broadcast(generator.mapping(z)).clone())


def moved(space, generator, inputs, seed=5) -> GeneratorInputs:
    """A code of that space which W+ does not hold (where the space is larger)."""
    lens = lens_of(space, generator)
    rng = torch.Generator().manual_seed(seed)
    variables = {name: v + 0.3 * torch.randn(v.shape, generator=rng) for name, v in lens.encode(inputs).items()}
    lens.project_(variables)
    return lens.decode(variables, inputs)


@each
def test_a_code_of_the_space_draws_what_ws_draws_until_it_is_moved(space, generator, inputs):
    lens = lens_of(space, generator)
    same = lens.decode(lens.encode(inputs), inputs)
    torch.testing.assert_close(generator.synthesis(same), generator.synthesis(inputs), rtol=1e-3, atol=1e-3)
    image = generator.synthesis(moved(space, generator, inputs))
    assert (image - generator.synthesis(inputs)).abs().mean() > 0.01
    assert image.isfinite().all()


@pytest.mark.parametrize("space", ["s", "w++"])
def test_styles_come_back_from_the_space_that_made_them(space, generator, inputs):
    there = moved(space, generator, inputs)
    lens = lens_of(space, generator)
    again = lens.decode(lens.encode(there), there)
    for name, style in generator.styles(there).items():
        torch.testing.assert_close(generator.styles(again)[name], style, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(generator.synthesis(again), generator.synthesis(there), rtol=1e-3, atol=1e-3)


def test_w_plus_plus_holds_a_w_for_every_filter(generator, inputs):
    variables = lens_of("w++", generator).encode(inputs)
    assert {name: tuple(v.shape) for name, v in variables.items()} == {
        name: (2, generator.tunable[generator.convolutions[name]][0] if name in generator.convolutions else 1, 16)
        for name in generator.layers
    }
    for name, row in generator.layers.items():
        torch.testing.assert_close(variables[name], inputs.ws[:, row, None].expand_as(variables[name]))
    # the same w in every filter is W+
    lens = lens_of("w++", generator)
    other = inputs.replace(ws=inputs.ws.flip(0).contiguous())
    drawn = generator.synthesis(lens.decode(lens.encode(other), inputs))
    torch.testing.assert_close(drawn, generator.synthesis(other), rtol=1e-3, atol=1e-3)


@each
def test_an_edit_moves_a_code_of_the_space_and_goes_back(space, generator, inputs):
    there = moved(space, generator, inputs)
    direction = Direction("d", "w", torch.linspace(-1, 1, 16), generator.fingerprint)
    edited = direction.edit(there, 1.5)
    before, after = generator.synthesis(there), generator.synthesis(edited)
    assert (after - before).abs().mean() > 0.01
    back = generator.synthesis(direction.edit(edited, -1.5))
    torch.testing.assert_close(back, before, rtol=1e-3, atol=1e-3)
    for name in ("styles", "residuals"):
        assert getattr(edited, name) is getattr(there, name)


@each
@pytest.mark.parametrize("by", [None, "s", "w++", "z+", "z", "w", "f"])
def test_interpolation_ends_at_both_images(space, by, generator, inputs):
    """Also where the space cannot hold them."""
    one, two = moved(space, generator, inputs.index([0])), moved(space, generator, inputs.index([1]), 6)
    lens = None if by is None else lens_of(by, generator)
    for t, end in ((0.0, one), (1.0, two)):
        drawn = generator.synthesis(interpolate(one, two, t, lens))
        torch.testing.assert_close(drawn, generator.synthesis(end), rtol=2e-3, atol=2e-3)
    middle = generator.synthesis(interpolate(one, two, 0.5, lens))
    assert middle.isfinite().all()
    if by == "s" and space != "w++":
        half = generator.styles(interpolate(one, two, 0.5, lens))
        for name, style in generator.styles(one).items():
            torch.testing.assert_close(half[name], (style + generator.styles(two)[name]) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "second"), [("s", "w++"), ("w+", "w++"), ("f", "s")])
def test_images_of_different_spaces_are_interpolated(first, second, generator, inputs):
    one, two = moved(first, generator, inputs.index([0])), moved(second, generator, inputs.index([1]))
    for t, end in ((0.0, one), (1.0, two)):
        drawn = generator.synthesis(interpolate(one, two, t))
        torch.testing.assert_close(drawn, generator.synthesis(end), rtol=2e-3, atol=2e-3)


@each
def test_mixing_takes_coarse_and_fine_layers(space, generator, inputs):
    one, two = moved(space, generator, inputs.index([0])), moved(space, generator, inputs.index([1]), 6)
    mixed = mix(one, two, 3, generator)
    styles, coarse, fine = (generator.styles(x) for x in (mixed, one, two))
    for name, row in generator.layers.items():
        torch.testing.assert_close(styles[name], (coarse if row < 3 else fine)[name])
    assert generator.synthesis(mixed).isfinite().all()


@each
def test_results_of_the_space_are_saved_and_checked(space, generator, inputs, tmp_path):
    there = moved(space, generator, inputs)
    there.save(tmp_path / "inputs.safetensors")
    loaded = GeneratorInputs.load(tmp_path / "inputs.safetensors")
    check_inputs(loaded, generator, "inputs")
    torch.testing.assert_close(generator.synthesis(loaded), generator.synthesis(there), rtol=1e-4, atol=1e-5)
    if there.styles is not None:
        wrong = there.replace(styles={**there.styles, "+b999.conv1": torch.zeros(2, 3)})
        with pytest.raises(CheckpointError, match="which 'tiny' does not have"):
            check_inputs(wrong, generator, "inputs")


@each
def test_what_does_not_change_is_drawn_once(space, generator, inputs):
    """Where a beginning is kept, it draws the same."""
    lens = lens_of(space, generator)
    there = moved(space, generator, inputs)
    beginning = generator.begin(there, there.changed(lens.decode(lens.encode(there), there)))
    if beginning is not None:
        drawn = generator.synthesis(there, beginning=beginning)
        torch.testing.assert_close(drawn, generator.synthesis(there), rtol=1e-5, atol=1e-5)
    assert (beginning is None) == (space != "f")


@pytest.mark.parametrize("styled", ["s", "w++"])
def test_ws_moves_on_top_of_styles_in_any_order(styled, generator, inputs):
    """A move of ws changes the picture, and the same in either order."""
    found = []
    for names in (("w+", styled), (styled, "w+")):
        joint = Joint({name: lens_of(name, generator) for name in names})
        variables = joint.encode(inputs.index([0]))
        variables = {name: v + 0.2 if name == "w+/w" else v for name, v in variables.items()}
        found.append(generator.synthesis(joint.decode(variables, inputs.index([0]))))
    torch.testing.assert_close(*found)
    assert (found[0] - generator.synthesis(inputs.index([0]))).abs().mean() > 0.01


def test_features_at_a_layer_a_size_and_none():
    generator, other = make_tiny_generator(), make_tiny_stylegan3()
    convolutions = [*other.convolutions]
    assert [lens_of("f", other, size=size).layer for size in (3, 99)] == [convolutions[0], convolutions[-1]]
    assert lens_of("f", generator).layer == "b16"
    assert lens_of("f", generator, size=9).layer == "b8"
    assert lens_of("f", generator, size=3).layer == "b4.conv1"
    assert lens_of("f", generator, layer="b32.conv0").shape == (6, 32, 32)
    for options, words in [
        ({"layer": "b8.conv3"}, "no activation 'b8.conv3'; did you mean 'b8.conv"),
        ({"size": 8, "layer": "b8"}, "not both"),
        ({"l2": -1.0}, "l2 must be a number of at least 0"),
        ({"ball": -1.0}, "ball must be a number of at least 0"),
    ]:
        with pytest.raises(UsageError, match=words):
            lens_of("f", generator, **options)


def test_the_nearest_point_of_an_l1_ball():
    x = torch.tensor([[3.0, -1.0, 0.5], [0.2, 0.1, -0.1], [-2.0, 2.0, 0.0]])
    expected = torch.tensor([[2.0, 0.0, 0.0], [0.2, 0.1, -0.1], [-1.0, 1.0, 0.0]])
    torch.testing.assert_close(nearest_in_l1(x, 2.0), expected)
    assert torch.equal(nearest_in_l1(x, 0.0), torch.zeros(3, 3))


def test_recipes_take_the_spaces():
    assert {"s", "w++", "z+"} <= set(latent_spaces())
    assert "f" not in latent_spaces()
    for space in ("s", "w++", "z+", "stylespace", "zplus"):
        changed = with_space(Recipe.load("i2s"), space, {})
        assert [part["name"] for part in changed.stages[0].optimize] == [PARAMETERIZATIONS.resolve(space)]
    with pytest.raises(UsageError, match=r"s and w\+\+ both write the styles"):
        Recipe.load("i2s").override(['stages.0.optimize = ["s", "w++"]'])
    with pytest.raises(UsageError, match="--space f: not a latent space"):
        with_space(Recipe.load("i2s"), "f", {})


def test_what_dhr_finds_is_in_weights_and_features(generator, inputs):
    """Both move, each by its own loss, and an edit of the result carries them along."""
    own = copy.deepcopy(generator)
    own.card = {"data": "portraits"}
    target = own.synthesis(inputs).clamp(-1, 1)
    target[..., 4:12, 4:12] = 1
    recipe = Recipe.load("dhr").override(["stages.0.init=mean"]).in_every_stage(steps=3)
    for one in package.invert(own, target, recipe):
        found = one.inputs
        assert sum(delta.abs().sum() for delta in found.deltas.values()) > 0
        assert all(residual.abs().sum() > 0 for residual in found.residuals.values())
        assert {"inside", "outside"} <= one.history[0].keys()
        edited = found.replace(ws=found.ws + 0.1)
        assert (own.synthesis(edited) - own.synthesis(edited.replace(residuals=None))).abs().mean() > 1e-4
