"""The placement of a picture: moves as matrices, the space, the start that finds it, recipes with it."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_tiny_generator, make_tiny_stylegan3

import latentopt
from latentopt.checkpoints.saved_inputs import check_inputs
from latentopt.editing.mixing import interpolate
from latentopt.errors import CheckpointError, UsageError
from latentopt.generators.tunable import choose_weights
from latentopt.geometry.moves import (
    PictureMove,
    between_moves,
    fitted_move,
    inverse_move,
    is_move,
    move_matrix,
    moved_back,
    parts_of,
    taken_from_inside,
)
from latentopt.initializers.places import grid_of_places, unexplained
from latentopt.inverting.preparing import prepare
from latentopt.loop.building import new_start
from latentopt.recipe.named_recipes import recipe_names
from latentopt.recipe.placement import with_placement
from latentopt.recipe.recipe import Recipe
from latentopt.registry import INITIALIZERS, PARAMETERIZATIONS
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs
from latentopt.watching.phases import listening

ANGLE, SHIFT, LOG_SCALE = torch.tensor([0.3, -2.0]), torch.tensor([[0.1, -0.2], [0.0, 0.3]]), torch.tensor([0.2, -0.1])


@pytest.fixture(scope="module")
def generator():
    return make_tiny_stylegan3()


def samples(generator, count, psi=1.0):
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(3))
    return GeneratorInputs(generator.truncate(generator.mapping(z), psi))


# Moves -------------------------------------------------------------------------------------------------------------


def test_a_move_comes_apart_as_it_was_made():
    move = move_matrix(ANGLE, SHIFT, LOG_SCALE)
    for found, made in zip(parts_of(move), (ANGLE, SHIFT, LOG_SCALE), strict=True):
        torch.testing.assert_close(found, made)
    torch.testing.assert_close(inverse_move(move) @ move, torch.eye(3).expand(2, 3, 3))


def test_what_a_move_does_by_hand():
    """A quarter turn anticlockwise takes what is right to the top; the shift comes after it."""
    move = PictureMove(90, (0.1, 0.0)).matrix[0]
    torch.testing.assert_close(move @ torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.1, -0.5, 1.0]), atol=1e-6, rtol=0)


def test_moving_back_is_resampling():
    """A picture that was shifted by two pixels, and one that was turned by a quarter, to the pixel."""
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shifted = torch.roll(image, 2, dims=3)
    back = moved_back(shifted, PictureMove(0, (0.25, 0.0)).matrix)
    torch.testing.assert_close(back[..., :6], image[..., :6])
    torch.testing.assert_close(moved_back(image.rot90(1, (2, 3)), PictureMove(90).matrix), image, atol=1e-5, rtol=0)


def test_what_was_inside_before_a_move():
    """Of a picture twice as wide as high: shifted to the right by a quarter of its width, its right quarter is gone."""
    inside = taken_from_inside(PictureMove(0, (0.25, 0.0)).matrix, 4, 8)[0]
    assert inside[:, :6].all()
    assert not inside[:, 6:].any()
    turned = taken_from_inside(PictureMove(90).matrix, 4, 8)[0]
    assert turned.any(dim=0).tolist() == [False] * 2 + [True] * 4 + [False] * 2


@pytest.mark.parametrize("scaled", [False, True])
def test_a_move_is_fitted_to_landmarks(scaled):
    points = torch.tensor([[-0.2, -0.1], [0.2, -0.1], [0.0, 0.3]])
    move = move_matrix(ANGLE[:1], SHIFT[:1], LOG_SCALE[:1] if scaled else None)
    places = (move[0] @ torch.cat([points, torch.ones(3, 1)], dim=1).T)[:2].T
    torch.testing.assert_close(fitted_move(points, places, scaled), move, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (torch.eye(3)[None], True),
        (move_matrix(ANGLE, SHIFT, LOG_SCALE), True),
        (torch.eye(3), False),
        (torch.zeros(1, 3, 3), False),
        (torch.tensor([[[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1]]]), False),
        (torch.tensor([[[1.0, 0, 0], [0, 1.0, 0], [0.1, 0, 1]]]), False),
        (torch.eye(3)[None] * math.nan, False),
    ],
)
def test_what_a_move_is(matrix, expected, generator):
    assert is_move(matrix) == expected
    if not expected:
        inputs = samples(generator, 1).replace(transform=matrix)
        with pytest.raises(CheckpointError, match=r"x: its transform is no move"):
            check_inputs(inputs, generator, "x")


def test_a_move_of_another_family_is_refused():
    inputs = samples(make_tiny_generator(), 1).replace(transform=torch.eye(3)[None])
    with pytest.raises(CheckpointError, match="x: a move of the picture, which 'tiny' does not draw"):
        check_inputs(inputs, make_tiny_generator(), "x")


def test_moves_follow_one_another(generator):
    inputs = samples(generator, 2)
    twice = PictureMove(10, (0.1, 0))(PictureMove(20)(inputs))
    expected = PictureMove(30, (0.1, 0))(inputs).transform
    torch.testing.assert_close(twice.transform, expected)
    assert PictureMove(20, (0.1, -0.05)).label == "rotate+20_translate+0.1,-0.05"


def test_the_network_draws_the_move():
    """Shifted by whole pixels, the picture of a net with radial filters is the picture shifted."""
    generator = make_tiny_stylegan3(conv_kernel=1, radial_filters=True)
    inputs = samples(generator, 2)
    image = generator.synthesis(inputs)
    moved = generator.synthesis(PictureMove(0, (0.25, -0.125))(inputs))  # 4 pixels right, 2 up
    error = (moved[:, :, :14, 4:] - image[:, :, 2:, :12]).square().mean().sqrt()
    assert error < 0.1 * image.std()
    assert (moved - image).square().mean().sqrt() > 0.3 * image.std()


# Space -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [False, True])
def test_the_space_holds_every_move_it_can(scale, generator):
    lens = PARAMETERIZATIONS.create("placement", generator, scale=scale)
    inputs = samples(generator, 2)
    assert lens.encode(inputs)["move"].shape == (2, 4 if scale else 3)
    assert not lens.encode(inputs)["move"].any()
    move = move_matrix(ANGLE, SHIFT, LOG_SCALE if scale else None)
    placed = inputs.replace(transform=move)
    torch.testing.assert_close(lens.decode(lens.encode(placed), inputs).transform, move)
    shared = lens.encode(inputs.replace(transform=move[:1]))["move"]
    torch.testing.assert_close(shared[0], shared[1])


def test_a_picture_moves_towards_its_place(generator):
    """Gradients reach angle and shift, and lead the right way."""
    inputs, lens = samples(generator, 1), PARAMETERIZATIONS.create("placement", generator)
    target = generator.synthesis(PictureMove(4, (0.02, 0.01))(inputs))
    move = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.Adam([move], lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        (generator.synthesis(lens.decode({"move": move}, inputs)) - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(move, torch.tensor([[math.radians(4), 0.02, 0.01]]), atol=0.01, rtol=0)


@pytest.mark.parametrize(("first", "second", "halfway"), [(89, -89, 0), (91, -91, 180), (10, 30, 20)])
def test_between_two_moves_a_picture_turns_and_keeps_its_size(first, second, halfway):
    ends = [
        PictureMove(angle, (0.1, 0.2)).matrix @ torch.diag(torch.tensor([1.2, 0.8, 1.0])) for angle in (first, second)
    ]
    for t, expected in ((0.0, ends[0]), (1.0, ends[1])):
        torch.testing.assert_close(between_moves(*ends, t), expected)
    found = between_moves(*ends, 0.5)
    torch.testing.assert_close(torch.linalg.det(found), torch.linalg.det(ends[0]))
    torch.testing.assert_close(found[:, :2, 2], ends[0][:, :2, 2])
    turned = math.degrees(parts_of(found)[0].item())
    assert math.cos(math.radians(turned - halfway)) == pytest.approx(1, abs=1e-4)


def test_pictures_between_a_picture_and_its_mirror_image_are_refused():
    inputs = samples(make_tiny_stylegan3(), 1)
    ends = [inputs.replace(transform=torch.diag(torch.tensor([x, 1.0, 1.0]))[None]) for x in (1.0, -1.0)]
    with pytest.raises(UsageError, match="mirror image"):
        interpolate(*ends, 0.5)
    assert interpolate(ends[0], ends[0], 0.5).transform is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda g: PARAMETERIZATIONS.create("placement", g),
        lambda g: INITIALIZERS.create("placement", g),
        lambda g: prepare(Recipe.load("sg3").in_every_stage(terms=[{"name": "l2"}]), g),
        lambda g: prepare(with_placement(Recipe.load("i2s").in_every_stage(terms=[{"name": "l2"}])), g),
    ],
)
def test_generators_without_a_transform_are_refused_at_once(make):
    with pytest.raises(UsageError, match="StyleGAN2 generator cannot draw a picture turned or shifted"):
        make(make_tiny_generator())


def test_the_fourier_input_is_tuned_only_where_it_is_named(generator):
    assert generator.placing == {f"synthesis.input.{name}" for name in ("weight", "affine.weight", "affine.bias")}
    assert set(choose_weights(generator, "all")) == set(generator.tunable) - generator.placing
    assert set(choose_weights(generator, "all,synthesis.input.*")) == set(generator.tunable)


# Start -------------------------------------------------------------------------------------------------------------


def smooth_pictures(count):
    """[N,3,24,24], mixtures [N,4] of four smooth pictures, whose sides are unlike one another, about a fifth."""
    rng = torch.Generator().manual_seed(6)
    coarse = torch.randn(5, 3, 5, 5, generator=rng)
    parts = torch.nn.functional.interpolate(coarse, 24, mode="bicubic", align_corners=True)
    w = torch.randn(count, 4, generator=rng)
    return torch.einsum("nk,kchw->nchw", w, parts[:4]) + 2 * parts[4], w


def test_samples_explain_a_picture_where_it_lies():
    """At the true place of 45, and nowhere else, the regression draws what is seen of it, and knows its w."""
    samples_drawn, w = smooth_pictures(40)
    grid = grid_of_places(0.4, 0.25, 5, 3)
    assert grid.shape == (45, 3)
    true = torch.tensor([10, 22, 44])
    move = inverse_move(move_matrix(grid[true, 0], grid[true, 1:]))
    errors, codes = unexplained(moved_back(samples_drawn[:3], move), grid, samples_drawn[3:], w[3:])
    assert torch.equal(errors.argmin(dim=1), true)
    assert (errors.topk(2, largest=False).values[:, 1] > 3 * errors.min(dim=1).values).all()
    torch.testing.assert_close(codes[range(3), true], w[:3], atol=0.4, rtol=0)


def test_a_place_from_which_hardly_anything_is_seen_explains_nothing():
    samples_drawn, w = smooth_pictures(10)
    grid = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.8, 0.0]])
    errors, _ = unexplained(samples_drawn[:1], grid, samples_drawn[1:], w[1:])
    assert errors.isfinite().tolist() == [[True, False]]


@pytest.mark.parametrize(("gain", "cut"), [(1, 0.0), (12, 0.3)], ids=["as drawn", "cut at white and black"])
def test_the_start_finds_the_place_of_known_latents(gain, cut, tmp_path):
    """Exactly, although they draw more than white or black where a third of the picture is cut there."""
    generator = make_tiny_stylegan3()
    generator.synthesis.output_scale *= gain
    inputs = samples(generator, 1)
    inputs.save(tmp_path / "code.safetensors", {"fingerprint": generator.fingerprint})
    target = generator.synthesis(PictureMove(20, (0.2, -0.15))(inputs)).clamp(-1, 1)
    assert (target.abs() == 1).float().mean() >= cut
    path = str(tmp_path / "code.safetensors")
    options = {"angles": 5, "shifts": 5, "runs": 6, "steps": 100, "code": False}
    found = INITIALIZERS.create("placement", generator, path=path, **options)(target, [0])
    angle, shift, _ = parts_of(found.transform)
    assert abs(math.degrees(angle.item()) - 20) < 0.2
    torch.testing.assert_close(shift, torch.tensor([[0.2, -0.15]]), atol=0.002, rtol=0)
    assert torch.equal(found.ws, inputs.ws)


@pytest.mark.parametrize("code", [True, False])
def test_the_start_begins_with_the_code_that_samples_suggest(code, generator):
    """Without a step, a run ends where it begins: where samples explain the picture best, with the predicted w."""
    target = generator.synthesis(PictureMove(-10, (0.1, 0.1))(samples(generator, 2)))
    options = {"angles": 3, "shifts": 3, "runs": 1, "steps": 0, "samples": 20, "code": code}
    found = INITIALIZERS.create("placement", generator, **options)(target, [0, 1])
    w = sample_w(generator, 0, 20)
    drawn = generator.synthesis(GeneratorInputs(generator.broadcast(w)))
    grid = grid_of_places(math.radians(25), 0.3, 3, 3)
    errors, codes = unexplained(target, grid, drawn, w)
    best = errors.argmin(dim=1)
    torch.testing.assert_close(found.transform, move_matrix(grid[best, 0], grid[best, 1:]))
    expected = codes[range(2), best] if code else generator.w_avg.expand(2, -1)
    torch.testing.assert_close(found.ws, generator.broadcast(expected), atol=1e-5, rtol=1e-4)


def test_the_start_finds_a_sample_where_it_lies():
    """Of a net whose samples are much alike, as those of trained ones are; the code is not known."""
    generator = make_tiny_stylegan3(conv_kernel=1, radial_filters=True)
    inputs = samples(generator, 2, psi=0.2)
    target = generator.synthesis(PictureMove(20, (0.2, -0.15))(inputs))
    options = {"angles": 5, "shifts": 5, "runs": 4, "steps": 30, "halvings": 1}
    found = INITIALIZERS.create("placement", generator, **options)(target, [0, 1])
    angle, shift, _ = parts_of(found.transform)
    assert (angle.rad2deg() - 20).abs().max() < 4
    torch.testing.assert_close(shift, torch.tensor([[0.2, -0.15]]).expand(2, 2), atol=0.03, rtol=0)


def test_samples_are_of_the_class_that_is_asked_for():
    generator = make_tiny_stylegan3(c_dim=3)
    target = torch.zeros(1, 3, 16, 16)
    options = {"angles": 1, "shifts": 1, "runs": 1, "steps": 0}
    one, other = (INITIALIZERS.create("placement", generator, label=n, **options)(target, [0]) for n in (0, 2))
    assert not torch.equal(one.ws, other.ws)
    with pytest.raises(UsageError, match="label must be from 0 to 2, not 3"):
        INITIALIZERS.create("placement", generator, label=3)


def test_the_nearer_half_of_the_runs_goes_on(generator):
    """Each round begins where the one before ended, so that more of them end nearer."""
    target = generator.synthesis(PictureMove(20, (0.2, -0.15))(samples(generator, 1)))
    off = []
    for halvings in (0, 1, 2):
        start = INITIALIZERS.create("placement", generator, angles=3, shifts=3, runs=6, steps=6, halvings=halvings)
        off.append((generator.synthesis(start(target, [0])) - target).square().mean().item())
    assert start.rounds == [6, 3, 1]
    assert off[2] < off[1] < off[0]


def test_landmarks_take_the_place_of_the_search(generator):
    places = [[0.35, 0.45], [0.65, 0.45], [0.5, 0.7]]
    move = PictureMove(15, (0.1, 0.05)).matrix[0]
    points = torch.cat([torch.tensor(places) - 0.5, torch.ones(3, 1)], dim=1)
    landmarks = ((move @ points.T)[:2].T + 0.5).tolist()
    start = INITIALIZERS.create("placement", generator, landmarks=landmarks, places=places)
    found = start(torch.zeros(2, 3, 16, 16), [0, 1])
    torch.testing.assert_close(found.transform, move.expand(2, 3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"angles": 0},
        {"runs": 0},
        {"samples": 1},
        {"steps": -1},
        {"halvings": -1},
        {"rate": math.inf},
        {"shift": -0.1},
        {"landmarks": [[0, 1], [1, 0]]},
        {"landmarks": [[0, 1], [1, 0]], "places": [[0, 1]]},
        {"landmarks": [[0, 1], [1, 0]], "places": [[0.5, 0.5], [0.5, 0.5]]},
        {"landmarks": [[0, 1], ["a", 0]], "places": [[0, 1], [1, 0]]},
        {"landmarks": [0, 1], "places": [0, 1]},
        {"landmarks": [[0, math.nan], [1, 0]], "places": [[0, 1], [1, 0]]},
        {"landmarks": [], "places": []},
    ],
)
def test_options_of_the_start_that_mean_nothing(options, generator):
    with pytest.raises(UsageError, match="placement: "):
        INITIALIZERS.create("placement", generator, **options)


# Recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_find_the_placement(name):
    """First of all, and it moves in every stage that moves latents; what it is then can be written and read again."""
    recipe = Recipe.load(name)
    if recipe.needs_start:
        with pytest.raises(UsageError, match="goes on from an earlier result"):
            with_placement(recipe)
        return
    placed = with_placement(recipe)
    assert placed.stages[0].init["name"] == "placement"
    assert all(bool(stage.spaces("transform")) == bool(stage.spaces("ws")) for stage in placed.stages)
    assert Recipe.parse(placed.dump()) == placed
    assert with_placement(placed) is placed
    assert len(placed.stages) == len(recipe.stages) + (name != "sg3")


def test_a_later_start_sees_the_picture_moved_back(generator):
    stage = Recipe.load("pulse").changed({("stages", 0, "init"): {"name": "best-of", "n": 3}}).stages[0]
    move = PictureMove(12, (0.1, 0)).matrix
    w = generator.mapping(torch.randn(1, 16, generator=torch.Generator().manual_seed(8)))
    target = generator.synthesis(GeneratorInputs(generator.broadcast(w), transform=move))
    seen = []

    def synthesis(inputs, *arguments, **options):
        seen.append(inputs)
        return plain(inputs, *arguments, **options)

    plain, generator.synthesis.forward = generator.synthesis.forward, synthesis
    try:
        found = new_start(generator, stage, target, [0], move)
    finally:
        del generator.synthesis.forward
    assert all(inputs.transform is None for inputs in seen)
    assert torch.equal(found.transform, move)
    upright = new_start(generator, stage, moved_back(target, move), [0], None)
    assert upright.transform is None
    assert torch.equal(upright.ws, found.ws)


def test_recipes_with_noise_maps_say_that_there_are_none_and_go_on(generator):
    said = []

    class Heard:
        def tell(self, text):
            said.append(text)

    recipe = Recipe.load("sg2").in_every_stage(steps=2, terms=[{"name": "l2"}, {"name": "noise"}])
    with listening(Heard()):
        target = generator.synthesis(samples(generator, 1)).clamp(-1, 1)
        found = latentopt.invert(generator, target, recipe)
    assert said == ["tiny: a StyleGAN3 generator has no noise maps: sg2 goes on without them"]
    assert found[0].inputs.noise in (None, {})


def test_the_placement_is_found_by_the_recipe(generator):
    """As far as few steps go: nearer than without it."""
    target = generator.synthesis(PictureMove(15, (0.15, 0.1))(samples(generator, 1, 0.3))).clamp(-1, 1)
    losses = []
    init = {"name": "placement", "angles": 3, "shifts": 3, "runs": 2, "steps": 10}
    for name, start in (("sg3", init), ("i2s", "mean")):
        recipe = Recipe.load(name).in_every_stage(steps=15, terms=[{"name": "l2"}])
        found = latentopt.invert(generator, target, recipe.changed({("stages", 0, "init"): start}))[0]
        losses.append(min(entry["best"] for entry in found.history))
        assert (found.inputs.transform is not None) == (name == "sg3")
    assert losses[0] < losses[1]
