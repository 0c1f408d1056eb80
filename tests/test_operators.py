"""Operators: every registered one, and stages whose terms compare measurements."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tiny_generator

from latentopt.errors import UsageError
from latentopt.inverting.batch import Batch
from latentopt.recipe.recipe import Recipe
from latentopt.registry import OPERATORS
from latentopt.types import GeneratorInputs

STAGE = {"init": "mean", "steps": 4, "lr": 0.05, "optimize": ["w+"], "terms": ["l2", "perceptual"]}
each_operator = pytest.mark.parametrize("name", sorted(OPERATORS))


def recipe(**changes) -> Recipe:
    return Recipe.from_table({"name": "measured", "stages": [STAGE | changes]})


@pytest.fixture(scope="module")
def generator():
    """32x32 pixels; its card says portraits, so that the perceptual term takes the bundled network."""
    generator = make_tiny_generator()
    generator.card = {"data": "portraits"}
    return generator


@pytest.fixture(scope="module")
def targets(generator):
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(3))
    return generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z)))).clamp(-1, 1)


def finished(generator, recipe, targets, rows=(0, 1, 2)) -> Batch:
    names = tuple(map(str, rows))
    batch = Batch(generator, recipe, targets[list(rows)], names, tuple(rows))
    for _ in batch.steps():
        pass
    return batch


@each_operator
def test_a_measurement_is_of_each_image_by_itself_and_differentiable(name, generator, targets):
    operator = OPERATORS.create(name, generator)
    together = operator(targets)
    assert together.shape[:2] == (3, 3)
    for i in range(3):
        assert torch.equal(operator(targets[i : i + 1]), together[i : i + 1])
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator, (image,), fast_mode=True)


@each_operator
def test_a_stage_with_an_operator_lowers_the_distance_of_the_measurements(name, generator, targets):
    batch = finished(generator, recipe(operator=name), targets)
    operator = OPERATORS.create(name, generator)
    for i, history in enumerate(batch.history):
        assert min(entry["loss"] for entry in history) < history[0]["loss"]
        measured = operator(generator.synthesis(batch.result.index([i]))) - operator(targets[i : i + 1])
        assert batch.best_parts(i)["l2"] == pytest.approx(measured.square().mean().item(), rel=1e-4)


def test_the_identity_changes_nothing(generator, targets):
    plain, measured = (finished(generator, recipe(**changes), targets) for changes in ({}, {"operator": "identity"}))
    assert torch.equal(plain.result.ws, measured.result.ws)


def test_companions_and_a_resumed_batch_change_nothing(generator, targets, tmp_path):
    asked = recipe(operator={"name": "down", "factor": 8})
    together, alone = finished(generator, asked, targets), finished(generator, asked, targets, rows=(1,))
    assert torch.allclose(together.result.ws[1], alone.result.ws[0], atol=1e-4)
    stopped = Batch(generator, asked, targets, ("0", "1", "2"), (0, 1, 2))
    for _, step in stopped.steps():
        if step.step == 2:
            break
    stopped.save(tmp_path / "state.safetensors")
    resumed = Batch.load(tmp_path / "state.safetensors", generator, asked, targets)
    for _ in resumed.steps():
        pass
    assert torch.equal(resumed.result.ws, together.result.ws)


def test_an_operator_is_part_of_what_is_done_but_its_absence_is_not():
    assert recipe().digest == recipe(operator=None).digest != recipe(operator="down").digest
    again = recipe(operator={"name": "down", "factor": 4})
    assert 'operator = { name = "down", factor = 4 }' in again.dump()
    assert "operator" not in recipe().dump()


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("upside-down", "unknown operator 'upside-down'"),
        ({"name": "down", "factr": 4}, "did you mean 'factor'"),
        ({"name": "down", "factor": 2.5}, "must be int"),
        (3, "must be the name of a operator"),
    ],
)
def test_what_cannot_be_an_operator_is_refused(operator, words):
    with pytest.raises(UsageError, match=words):
        recipe(operator=operator)


@pytest.mark.parametrize("factor", [0, 5, 64])
def test_a_factor_must_divide_the_image(generator, factor):
    with pytest.raises(UsageError, match="does not divide both sides of a 32x32 image"):
        OPERATORS.create("down", generator, factor=factor)
