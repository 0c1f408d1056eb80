"""A run is made to fit into the memory that is free, before it begins."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tiny_generator

import latentopt
from latentopt.devices import free_memory
from latentopt.generators.tunable import choose_weights
from latentopt.inverting import memory
from latentopt.inverting.memory import fit_memory, weight_bytes
from latentopt.recipe.recipe import Recipe
from latentopt.watching.phases import listening

RECIPE = Recipe.load("i2s").override(["stages.0.batch=4", "stages.0.steps=2", 'stages.0.terms=["l2"]'])


class Told(list):
    """Keeps the lines."""

    tell = list.append


@pytest.fixture
def generator(monkeypatch):
    monkeypatch.setattr(memory, "NETWORKS", 0.0)
    monkeypatch.setattr("latentopt.generators.recomputing.LARGE", 64)
    return make_tiny_generator(channels=(8, 6, 4))


def fitted(monkeypatch, generator, free, recipe=RECIPE):
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    told = Told()
    with listening(told):
        return fit_memory(recipe, generator, 4), told


def test_enough_or_unknown_memory_changes_nothing(monkeypatch, generator):
    for free in (1e12, None):
        assert fitted(monkeypatch, generator, free) == (4, []) and not generator.low_memory


def test_short_memory_first_costs_time_then_the_batch(monkeypatch, generator):
    full = generator.gradient_bytes
    at_once, told = fitted(monkeypatch, generator, 4.5 * full)
    assert (at_once, generator.low_memory) == (4, True) and "--low-memory" in told[0]
    at_once, told = fitted(monkeypatch, generator, 3.2 * generator.gradient_bytes)
    assert at_once == 2 and told == ["2 of 4 images are drawn at once: there is no memory for more"]
    at_once, told = fitted(monkeypatch, generator, 10.0)
    assert at_once == 1 and "--dtype bfloat16" in told[0]


def test_changes_of_weights_count(generator):
    tuning = Recipe.load("weights")
    values = sum(generator.weight(name).numel() for name in choose_weights(generator, "convs:6"))
    assert weight_bytes(tuning, generator) == 4 * memory.COPIES * values
    assert weight_bytes(RECIPE, generator) == weight_bytes(tuning.sharing(2), generator) == 0


def test_a_smaller_batch_gives_the_same_results(monkeypatch, generator):
    targets = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = latentopt.invert(generator, targets, RECIPE)
    monkeypatch.setattr(memory, "free_memory", lambda device: 10.0)
    parts = latentopt.invert(generator, targets, RECIPE)
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one.inputs.ws, other.inputs.ws, atol=1e-4)


def test_free_memory_is_a_number_or_unknown():
    free = free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e15
    assert free_memory(torch.device("meta")) is None
