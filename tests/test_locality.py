"""The locality term: the tuned generator against the frozen one around the pivot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.registry import TERMS
from latentopt.statistics.sampling import w_std
from latentopt.types import GeneratorInputs, View

WEIGHT = "synthesis.b16.conv0.weight"  # [8,10,3,3]
SEEDS = (11, 12, 13)


def term_of(generator, **options):
    return TERMS.create("locality", generator, torch.zeros(3, 3, 32, 32), **({"net": "bundled"} | options))


def view(inputs: GeneratorInputs, step: int = 0, seeds: tuple[int, ...] = SEEDS) -> View:
    images = torch.zeros(len(inputs), 3, 32, 32)
    return View(images, images, inputs, {}, 0.0, None, seeds, step)


def with_delta(inputs: GeneratorInputs, scale: float = 1.0, rows: int = 3) -> GeneratorInputs:
    delta = scale * torch.randn(rows, 8, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    return inputs.replace(deltas={WEIGHT: delta})


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("options", [{}, {"samples": 2}, {"lpips_weight": 0.0}])
def test_exactly_zero_at_zero_delta_with_no_gradient(options, rows, tiny_generator, tiny_inputs):
    inputs = with_delta(tiny_inputs, 0.0, rows)
    inputs.deltas[WEIGHT].requires_grad_()
    value = term_of(tiny_generator, **options)(view(inputs))
    assert value.tolist() == [0.0] * 3
    value.sum().backward()
    assert (inputs.deltas[WEIGHT].grad == 0).all()


def test_without_deltas_there_is_nothing_to_hold(tiny_generator, tiny_inputs):
    assert term_of(tiny_generator)(view(tiny_inputs)).tolist() == [0.0] * 3
    assert term_of(tiny_generator)(view(tiny_inputs.replace(deltas={}))).tolist() == [0.0] * 3


def test_the_gradient_reaches_the_deltas_alone(tiny_generator, tiny_inputs):
    noise = {name: torch.randn(3, 1, *size) for name, size in tiny_generator.noise_shapes.items()}
    inputs = with_delta(tiny_inputs.replace(noise=noise)).map(lambda x: x.clone().requires_grad_())
    term_of(tiny_generator)(view(inputs)).sum().backward()
    assert inputs.ws.grad is None
    assert all(x.grad is None for x in inputs.noise.values())
    assert (inputs.deltas[WEIGHT].grad.flatten(1).norm(dim=1) > 0).all()
    assert not any(p.requires_grad for p in tiny_generator.parameters())


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_an_image_s_value_does_not_depend_on_its_companions(samples, rows, tiny_generator, tiny_inputs):
    inputs = with_delta(tiny_inputs, 0.3, rows)
    term = term_of(tiny_generator, samples=samples)
    whole = term(view(inputs, step=5))
    for row in (0, 2):
        alone = term.index(torch.tensor([row]))(view(inputs.index([row]), 5, SEEDS[row : row + 1]))
        torch.testing.assert_close(alone, whole[[row]], rtol=1e-4, atol=1e-7)
    assert len(set(whole.tolist())) == 3


def test_the_draw_changes_with_the_step_and_the_seed_alone(tiny_generator, tiny_inputs):
    inputs, term = with_delta(tiny_inputs, 0.3), term_of(tiny_generator)
    first = term(view(inputs, 1))
    assert torch.equal(term(view(inputs, 1)), first)
    assert (term(view(inputs, 2)) != first).all()
    assert (term(view(inputs, 1, (21, 22, 23))) != first).all()


def drawn_at(monkeypatch, generator, inputs: GeneratorInputs, **options) -> tuple[Tensor, list[str]]:
    """The codes that the term drew, [B*S,L,C], and with which noise."""
    codes, modes, synthesis = [], [], generator.synthesis.forward

    def spy(inputs, noise_mode="const"):
        codes.append(inputs.ws)
        modes.append((noise_mode, inputs.noise))
        return synthesis(inputs, noise_mode)

    monkeypatch.setattr(generator.synthesis, "forward", spy)
    term_of(generator, **options)(view(inputs))
    assert torch.equal(codes[0], codes[1])
    return codes[0], modes


@pytest.mark.parametrize("norm", ["row", "all"])
@pytest.mark.parametrize("distance", [0.75, 3.2])
def test_the_distance_is_exact(norm, distance, monkeypatch, tiny_generator_copy, tiny_inputs):
    """A W+ pivot: each row moves as far, or the whole by sqrt(L) times as much."""
    generator = tiny_generator_copy
    inputs = with_delta(tiny_inputs)
    codes, modes = drawn_at(monkeypatch, generator, inputs, norm=norm, distance=distance, samples=2)
    assert modes == [("none", None)] * 2
    step = codes - inputs.ws.repeat_interleave(2, dim=0)
    rows, radius = step.norm(dim=2), distance * w_std(generator)
    if norm == "row":
        torch.testing.assert_close(rows, torch.full_like(rows, radius), rtol=1e-4, atol=1e-4)
    else:
        whole = step.norm(dim=(1, 2))
        torch.testing.assert_close(whole, torch.full_like(whole, radius * 8**0.5), rtol=1e-4, atol=1e-4)
        assert rows.std(dim=1).min() > 1e-3


def test_both_norms_are_the_same_for_a_pivot_in_w(monkeypatch, tiny_generator_copy, tiny_inputs):
    pivot = tiny_inputs.replace(ws=tiny_inputs.ws[:, :1].expand(-1, 8, -1))
    inputs = with_delta(pivot)
    codes = [drawn_at(monkeypatch, tiny_generator_copy, inputs, norm=norm)[0] for norm in ("row", "all")]
    torch.testing.assert_close(codes[0], codes[1])


def test_the_move_is_towards_a_truncated_random_w(monkeypatch, tiny_generator_copy, tiny_inputs):
    """With psi = 0 that is the mean of w."""
    generator, inputs = tiny_generator_copy, with_delta(tiny_inputs)
    codes, _ = drawn_at(monkeypatch, generator, inputs, psi=0.0)
    towards = torch.nn.functional.normalize(generator.w_avg - inputs.ws, dim=2)
    torch.testing.assert_close(torch.nn.functional.normalize(codes - inputs.ws, dim=2), towards, rtol=1e-3, atol=1e-3)


def test_the_value_by_hand(tiny_generator, tiny_inputs):
    """The two distances and their weights; the first is of pictures drawn here."""
    inputs = with_delta(tiny_inputs, 0.3)
    both, l2, lpips = (
        term_of(tiny_generator, l2_weight=a, lpips_weight=b)(view(inputs)) for a, b in ((2.0, 3.0), (1, 0), (0, 1))
    )
    torch.testing.assert_close(both, 2 * l2 + 3 * lpips)
    term = term_of(tiny_generator, lpips_weight=0.0)
    moved = term._moved(view(inputs)).flatten(0, 1)
    tuned = tiny_generator.synthesis(GeneratorInputs(moved, deltas=inputs.deltas), "none")
    frozen = tiny_generator.synthesis(GeneratorInputs(moved), "none")
    torch.testing.assert_close(l2, (tuned - frozen).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_the_interval(tiny_generator, tiny_inputs):
    inputs, every, third = with_delta(tiny_inputs), term_of(tiny_generator), term_of(tiny_generator, interval=3)
    for step in range(4):
        expected = every(view(inputs, step)) if step % 3 == 0 else torch.zeros(3)
        assert torch.equal(third(view(inputs, step)), expected)


def test_the_perceptual_network_is_named_where_it_is_used(tiny_generator):
    assert term_of(tiny_generator).network.startswith("bundled ")
    assert term_of(tiny_generator, lpips_weight=0.0).network == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "column"}, "norm 'column' is not one of row, all"),
        ({"samples": 0}, "samples"),
        ({"interval": 0}, "interval"),
        ({"distance": -1.0}, "distance"),
        ({"l2_weight": float("nan")}, "l2_weight"),
        ({"lpips_weight": -0.1}, "lpips_weight"),
        ({"net": "vgg"}, "perceptual net"),
    ],
)
def test_options_that_cannot_be_meant(options, message, tiny_generator):
    with pytest.raises(UsageError, match=message):
        term_of(tiny_generator, **options)
