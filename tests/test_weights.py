"""Lenses over the generator's weights: what they choose, what they add, and the recipes that tune with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor

from latentopt.errors import StatisticsError, UsageError
from latentopt.generators.tunable import choose_weights
from latentopt.inverting.batch import Batch
from latentopt.inverting.tuning import tuning_recipe
from latentopt.recipe.recipe import Recipe
from latentopt.recipe.spaces import with_space
from latentopt.registry import PARAMETERIZATIONS
from latentopt.statistics.sigma import Sigma
from latentopt.statistics.streams import image_seed
from latentopt.types import GeneratorInputs

CONVS = [f"synthesis.{name}.weight" for name in ("b4.conv1", *(f"b{r}.conv{i}" for r in (8, 16, 32) for i in (0, 1)))]
PARTS = [f"synthesis.b8.conv0.{name}" for name in ("weight", "bias", "noise_strength", "affine.weight", "affine.bias")]
LENSES = ("weights", "epsilon", "lowrank")
TUNING = ("pti", "weights", "wrangan", "wrangan-pivot", "lowrank")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sigma_of(generator, value: float = 0.5) -> Sigma:
    tensors = {name: torch.full(shape, value) for name, shape in generator.tunable.items()}
    return Sigma(tensors, "estimated", generator.fingerprint)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, tiny_generator):
    """A current folder with a sigma of 0.5 for every weight of the tiny generator."""
    sigma_of(tiny_generator).save(tmp_path / "sigma" / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)


def lens_of(name: str, generator, **options):
    return PARAMETERIZATIONS.create(name, generator, **options)


# Choosing


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("convs", CONVS),
        ("convs:2", CONVS[-2:]),
        ("convs:6", CONVS[-6:]),
        ("convs:7", CONVS),
        ("convs:99", CONVS),
        ("synthesis.b8.conv0.*", PARTS),
        ("*.torgb.weight", [f"synthesis.b{r}.torgb.weight" for r in (4, 8, 16, 32)]),
        ("*b32.torgb.weight, convs:1", [CONVS[-1], "synthesis.b32.torgb.weight"]),
        ("synthesis.b32.conv1.weight,synthesis.b4.const", ["synthesis.b4.const", "synthesis.b32.conv1.weight"]),
        ("convs:1,convs:2,*b32.conv1.w*", CONVS[-2:]),
    ],
)
def test_choosing_weights(layers, expected, tiny_generator):
    assert choose_weights(tiny_generator, layers) == tuple(expected)


def test_all_weights_are_all_that_may_be_tuned(tiny_generator):
    assert choose_weights(tiny_generator, "all") == tuple(tiny_generator.tunable)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("conv", "'conv' matches no weight; names are such as convs"),
        ("convs:0", "at least 1"),
        ("convs:x", "matches no weight"),
        ("synthesis.b32.conv2.weight", "synthesis.b32.conv1.weight"),
        ("convs,synthesis.b64.*", "'synthesis.b64.\\*' matches no weight"),
        ("xyzzy", "synthesis.b4.const"),
    ],
)
def test_what_chooses_nothing_is_refused_with_the_nearest_names(layers, message, tiny_generator):
    with pytest.raises(UsageError, match=message):
        choose_weights(tiny_generator, layers)


class OtherNames:
    """A generator that names no convolutions."""

    convolutions: dict[str, str] = {}
    placing: frozenset[str] = frozenset()

    @property
    def tunable(self) -> dict[str, tuple[int, ...]]:
        return {"synthesis.L0.weight": (4, 4, 3, 3), "synthesis.L0.bias": (4,), "synthesis.L1.weight": (3, 4, 1, 1)}


def test_generators_without_named_convolutions():
    assert choose_weights(OtherNames(), "all") == tuple(OtherNames().tunable)
    assert choose_weights(OtherNames(), "*.weight") == ("synthesis.L0.weight", "synthesis.L1.weight")
    with pytest.raises(UsageError, match=r"no convolutions; choose by globs; names are such as synthesis\.L0"):
        choose_weights(OtherNames(), "convs:6")


# Lenses


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("name", "options"), [("weights", {}), ("epsilon", {"start": 0.0}), ("lowrank", {})])
@pytest.mark.parametrize("images", [1, 3])
def test_a_start_without_deltas_draws_the_base_generator(name, options, shared, images, tiny_generator, tiny_inputs):
    """The deltas are exactly zero; so is the difference of the pictures, but for rounding."""
    inputs = tiny_inputs.index(list(range(images)))
    lens = lens_of(name, tiny_generator, layers="all" if name == "weights" else "convs", shared=shared, **options)
    decoded = lens.decode(lens.encode(inputs), inputs)
    assert decoded.deltas
    assert all((delta == 0).all() for delta in decoded.deltas.values())
    assert all(len(delta) == (1 if shared else images) for delta in decoded.deltas.values())
    drawn, base = tiny_generator.synthesis(decoded), tiny_generator.synthesis(inputs)
    if shared or images == 1:
        assert torch.equal(drawn, base)
    torch.testing.assert_close(drawn, base, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LENSES)
def test_a_shared_delta_starts_from_the_mean_of_the_images_own(name, tiny_generator, tiny_inputs):
    weight = "synthesis.b32.conv1.weight"
    delta = randn(3, 6, 1) @ randn(3, 1, 54, seed=1)
    delta[1:] = delta[:1] * torch.tensor([2.0, 6.0])[:, None, None]  # rank 1, and so is the mean: 3 times the first
    inputs = tiny_inputs.replace(deltas={weight: delta.reshape(3, 6, 6, 3, 3)})
    lens = lens_of(name, tiny_generator, layers=weight, shared=True)
    back = lens.decode(lens.encode(inputs), inputs).deltas[weight]
    torch.testing.assert_close(back, 3 * inputs.deltas[weight][:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LENSES)
def test_other_deltas_stay(name, tiny_generator, tiny_inputs):
    const = randn(1, 12, 4, 4)
    inputs = tiny_inputs.replace(deltas={"synthesis.b4.const": const})
    lens = lens_of(name, tiny_generator, layers="convs:1")
    deltas = lens.decode(lens.encode(inputs), inputs).deltas
    assert list(deltas) == ["synthesis.b4.const", CONVS[-1]]
    assert deltas["synthesis.b4.const"] is const


@pytest.mark.parametrize("shared", [False, True])
def test_the_penalty_of_weights_by_hand(shared, tiny_generator, tiny_inputs):
    lens = lens_of(
        "weights", tiny_generator, layers="synthesis.b8.conv1.bias,*.b8.conv1.noise_strength", l2=0.5, shared=shared
    )
    variables = {name: v + 2 for name, v in lens.encode(tiny_inputs).items()}
    assert lens.penalty(variables).tolist() == [0.5 * 4 * 11] * (1 if shared else 3)  # ten biases and one strength


def test_epsilon_by_hand(tiny_generator, tiny_inputs):
    """delta = sigma epsilon; the penalty is alpha sum epsilon^2, or as printed alpha/sigma sum delta^2."""
    weight, entries = CONVS[-1], 6 * 6 * 9
    lens = lens_of("epsilon", tiny_generator, layers=weight, alpha=0.25, start=0.125)
    variables = lens.encode(tiny_inputs)
    assert variables[weight].shape == (3, 6, 6, 3, 3)
    assert (variables[weight] == 0.125).all()
    assert (lens.decode(variables, tiny_inputs).deltas[weight] == 0.0625).all()
    assert lens.penalty(variables).tolist() == pytest.approx([0.25 * entries * 0.125**2] * 3)
    printed = lens_of("epsilon", tiny_generator, layers=weight, alpha=0.25, coefficient="alpha/sigma")
    assert printed.penalty(variables).tolist() == pytest.approx([0.25 / 0.5 * entries * 0.0625**2] * 3)


def test_an_existing_delta_in_units_of_sigma(tmp_path, tiny_generator, tiny_inputs):
    """Weights of sigma 0 cannot move: their part of a delta is lost; the others are exact, and start is not used."""
    weight = CONVS[-1]
    scale = torch.rand(6, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    scale[0] = 0
    Sigma({weight: scale}, "learned", tiny_generator.fingerprint).save(tmp_path / "mine.safetensors")
    inputs = tiny_inputs.replace(deltas={weight: randn(3, 6, 6, 3, 3)})
    lens = lens_of("epsilon", tiny_generator, layers=weight, sigma=str(tmp_path / "mine.safetensors"))
    variables = lens.encode(inputs)
    assert (variables[weight][:, 0] == 0).all()
    torch.testing.assert_close(variables[weight][:, 1:], inputs.deltas[weight][:, 1:] / scale[1:])
    back = lens.decode(variables, inputs).deltas[weight]
    assert (back[:, 0] == 0).all()
    torch.testing.assert_close(back[:, 1:], inputs.deltas[weight][:, 1:])


def test_missing_sigma(tmp_path, tiny_generator):
    with pytest.raises(StatisticsError, match="latentopt fit-sigma"):
        lens_of("epsilon", make_tiny_generator(7))
    path = tmp_path / "some.safetensors"
    Sigma({CONVS[-1]: torch.ones(6, 6, 3, 3)}, "learned", tiny_generator.fingerprint).save(path)
    with pytest.raises(StatisticsError, match=rf"some\.safetensors: has no sigma for {CONVS[-2]};.*fit-sigma --layers"):
        lens_of("epsilon", tiny_generator, layers="convs:2", sigma=str(path))
    with pytest.raises(StatisticsError, match=r"none\.safetensors"):
        lens_of("epsilon", tiny_generator, sigma=str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_rank_is_what_was_asked_for(rank, tiny_generator, tiny_inputs):
    """Also of a delta of full rank, which is truncated as well as can be: the error is its other singular values."""
    weight = "synthesis.b16.conv0.weight"
    delta = randn(3, 8, 10, 3, 3)
    inputs = tiny_inputs.replace(deltas={weight: delta})
    lens = lens_of("lowrank", tiny_generator, layers=weight, rank=rank)
    variables = lens.encode(inputs)
    assert {name: tuple(v.shape) for name, v in variables.items()} == {
        f"{weight}/up": (3, 8, rank),
        f"{weight}/down": (3, rank, 90),
    }
    back = lens.decode(variables, inputs).deltas[weight]
    assert torch.linalg.matrix_rank(back.flatten(2)).tolist() == [rank] * 3
    rest = torch.linalg.svdvals(delta.flatten(2))[:, rank:].square().sum(dim=1)
    torch.testing.assert_close((back - delta).square().sum(dim=(1, 2, 3, 4)), rest)
    moved = {name: v + randn(*v.shape, seed=4) for name, v in variables.items()}
    assert torch.linalg.matrix_rank(lens.decode(moved, inputs).deltas[weight].flatten(2)).tolist() == [rank] * 3


def test_the_penalty_of_low_rank_is_that_of_its_delta(tiny_generator, tiny_inputs):
    lens = lens_of("lowrank", tiny_generator, layers="convs:2", rank=3, l2=0.5)
    variables = {name: v + randn(*v.shape, seed=4) for name, v in lens.encode(tiny_inputs).items()}
    deltas = lens.decode(variables, tiny_inputs).deltas.values()
    by_hand = 0.5 * sum(delta.square().sum(dim=(1, 2, 3, 4)) for delta in deltas)
    torch.testing.assert_close(lens.penalty(variables), by_hand)


def test_what_has_no_rank_is_left_out(tiny_generator, tiny_inputs):
    """Biases and noise strengths; a rank beyond a weight's own sides is cut to them; const is a matrix of pixels."""
    variables = lens_of("lowrank", tiny_generator, layers="all", rank=5).encode(tiny_inputs)
    chosen = {name.rpartition("/")[0] for name in variables}
    assert chosen == {name for name, shape in tiny_generator.tunable.items() if len(shape) >= 2}
    assert variables["synthesis.b4.torgb.weight/up"].shape == (3, 3, 3)
    assert variables["synthesis.b4.const/down"].shape == (3, 5, 16)


def test_low_rank_noise_is_the_same_for_all_images_and_its_size_is_known(tiny_generator, tiny_inputs):
    weight = CONVS[1]
    down = lens_of("lowrank", tiny_generator, layers=weight, rank=10).encode(tiny_inputs)[f"{weight}/down"]
    assert torch.equal(down[0], down[2])
    assert down.square().mean().sqrt().item() == pytest.approx(1 / (12 * 9) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("weights", {"l2": -1.0}, "l2"),
        ("weights", {"l2": float("nan")}, "l2"),
        ("weights", {"layers": "nothing"}, "matches no weight"),
        ("epsilon", {"alpha": -1.0}, "alpha"),
        ("epsilon", {"start": float("inf")}, "start"),
        ("epsilon", {"coefficient": "alpha*sigma"}, "alpha/sigma\\^2"),
        ("lowrank", {"rank": 0}, "rank must be at least 1"),
        ("lowrank", {"l2": -1.0}, "l2"),
        ("lowrank", {"layers": "*.bias"}, "no matrix or convolution"),
    ],
)
def test_options_that_cannot_be_meant(name, options, message, tiny_generator):
    with pytest.raises(UsageError, match=message):
        lens_of(name, tiny_generator, **options)


# Recipes


@pytest.mark.parametrize("name", TUNING)
def test_tuning_recipes_run_and_improve_on_their_pivot(name, tiny_generator):
    """On the tiny generator, two steps of inversion; the bundled perceptual network stands in for LPIPS."""
    generator = make_tiny_generator()
    generator.card = {"data": "portraits"}
    recipe = Recipe.load(name)
    assert [stage.noise_mode for stage in recipe.stages] == ["const"] * len(recipe.stages)
    shortened = tuple(replace(stage, steps=2 if i == 0 else 4, stop=None) for i, stage in enumerate(recipe.stages))
    w = generator.mapping(randn(2, 16))
    target = generator.synthesis(GeneratorInputs(generator.broadcast(w)))
    run = Batch(generator, replace(recipe, stages=shortened), target, ("a", "b"), (1, 2))
    first = {}
    for stage, step in run.steps():
        first.setdefault(stage, step.loss)
        last = step.best_loss
    assert run.status == ["done", "done"]
    assert run.inputs.deltas
    assert all(after < before for before, after in zip(first[len(first) - 1], last, strict=True))


@pytest.mark.parametrize(
    ("space", "goes_on"), [("w", "w"), ("w+", "w+"), ("p-norm", "p-norm"), ("s", "w+"), ("w++", "w+")]
)
def test_latents_move_on_where_they_were_found(space, goes_on):
    """In W+ where the result's space moved no ws: they are as they were given, by an encoder perhaps."""
    earlier = with_space(Recipe.load("i2s"), space, {})
    last = tuning_recipe(Recipe.load("wrangan"), earlier).stages[-1]
    assert [part["name"] for part in last.optimize if part["name"] != "epsilon"] == [goes_on]


def test_the_pivot_stays_where_only_weights_are_tuned():
    for name in TUNING:
        writers = [{part["name"] for part in stage.optimize} for stage in Recipe.load(name).stages]
        assert not writers[0] & set(LENSES), "first an inversion, so that a finished one can take its place"
        assert writers[-1] & set(LENSES)
        assert (writers[-1] - set(LENSES) == {"w"}) == (name == "wrangan")


TOLERANCE = (
    1e-3  # on pixels in [-1,1]: convolutions of a group round otherwise, and Adam divides small gradients by themselves
)


@pytest.mark.parametrize("lens", [{"name": "weights"}, {"name": "lowrank", "rank": 2}])
def test_a_batch_of_eight_is_eight_single_runs(lens):
    """Every image has its own delta, and no other image has a part in it."""
    generator = make_tiny_generator(channels=(8, 6))
    z = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(4))
    target = generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z)))).clamp(-1, 1)
    stage = {"init": "mean", "steps": 12, "lr": 0.01, "optimize": [lens], "terms": ["l2"]}
    recipe = Recipe.from_table({"stages": [stage]})

    def tuned(rows: list[int]) -> Batch:
        run = Batch(generator, recipe, target[rows], tuple(map(str, rows)), tuple(image_seed(0, str(i)) for i in rows))
        for _ in run.steps():
            pass
        return run

    together = tuned(list(range(8)))
    images = together.images()
    for i in range(8):
        alone = tuned([i])
        assert (images[i] - alone.images()[0]).abs().max() < TOLERANCE
        history = together.history[i]
        assert history[-1]["loss"] == pytest.approx(alone.history[0][-1]["loss"], rel=TOLERANCE)
        assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    deltas = together.inputs.deltas["synthesis.b8.conv1.weight"]
    assert (deltas[0] - deltas[1]).abs().max() > 10 * TOLERANCE, "the deltas are the images' own"
