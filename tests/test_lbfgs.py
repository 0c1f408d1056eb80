"""L-BFGS of every image by itself: against the textbook's recursion, its line search, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny_generator
from test_loop import Common, losses, make, targets, work  # noqa: F401  (targets is a fixture)
from torch import Tensor

from latentopt.errors import UsageError
from latentopt.loop.lbfgs import LBFGS
from latentopt.loop.problem import Problem
from latentopt.protocols import IMAGES, Memory
from latentopt.recipe.recipe import Recipe

FULL = SimpleNamespace(precision=torch.float32)
HALF = SimpleNamespace(precision=torch.bfloat16)
LR = 0.5


@pytest.fixture(scope="module")
def generator():
    return make_tiny_generator(channels=(8, 6))


def rosenbrock(x: Tensor) -> Tensor:
    """[b], of x [b,n], the valley that every textbook shows."""
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(dim=1)


def descend(function, start: Tensor, steps: int, lbfgs: LBFGS, fault=None) -> tuple[list[Tensor], list[Tensor], Memory]:
    """Points [b,n] that were measured and their losses; the variables are two, the columns of x."""
    variables = {"a": start[:, :2].clone(), "b": start[:, 2:].clone()}
    memory: Memory = {}
    points, values = [], []
    for step in range(steps):
        x = torch.cat(list(variables.values()), dim=1).requires_grad_()
        loss = function(x)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        points.append(x.detach().clone())
        values.append(loss.detach() if fault is None else fault(step, loss.detach()))
        gradients = {"a": gradient[:, :2], "b": gradient[:, 2:]}
        lbfgs.step(variables, gradients, values[-1], memory, {"a": LR, "b": LR}, torch.ones(len(start)))
    return points, values, memory


STARTS = torch.tensor([[-1.2, 1.0, -1.2, 1.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])


def reference(x: Tensor, steps: int, history: int, c1: float = 1e-4) -> list[Tensor]:
    """The points that are measured for one image [n]: Nocedal and Wright, algorithm 7.4, in double precision."""
    x, points, pairs, kept, tries = x.double(), [], [], None, 0
    way, length = torch.zeros_like(x), torch.zeros(())

    def measure(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        loss = rosenbrock(x[None])[0]
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    while len(points) < steps:
        loss, gradient = measure(x)
        points.append(x)
        if kept is not None and loss > kept[1] + c1 * length * way.dot(kept[2]):
            tries += 1
            slope = length * way.dot(kept[2])
            length = length * (-slope / (2 * (loss - kept[1] - slope))).clamp(0.1, 0.5)
            assert tries < 6
            x = kept[0] + length * way
            continue
        if kept is not None and (s := x - kept[0]).dot(y := gradient - kept[2]) > 1e-8 * s.norm() * y.norm():
            pairs = [*pairs, (s, y)][-history:]
        kept, tries, q, factors = (x, loss, gradient), 0, gradient.clone(), []
        for s, y in reversed(pairs):
            factors.append(s.dot(q) / s.dot(y))
            q -= factors[-1] * y
        if pairs:
            s, y = pairs[-1]
            q *= s.dot(y) / y.dot(y)
        for (s, y), alpha in zip(pairs, reversed(factors), strict=True):
            q += s * (alpha - y.dot(q) / s.dot(y))
        way, length = -q, torch.ones(()) if pairs else LR / q.norm()
        x = x + length * way
    return points


@pytest.mark.parametrize("history", [1, 3, 10])
def test_every_image_goes_the_textbooks_way(history):
    """History full and not, trials that fail at different steps in different images: point by point."""
    points, values, _ = descend(rosenbrock, STARTS, 14, LBFGS(FULL, history=history))
    for i, start in enumerate(STARTS):
        expected = torch.stack(reference(start, 14, history))
        torch.testing.assert_close(torch.stack(points)[:, i].double(), expected, rtol=2e-3, atol=2e-3)
    rises = [
        [bool(b > min(v[i] for v in values[: k + 1])) for k, b in enumerate(v[i] for v in values[1:])] for i in range(3)
    ]
    assert len({tuple(r) for r in rises}) == 3, "trials fail at different steps"


def test_it_finds_the_bottom_of_the_valley():
    points, values, _ = descend(rosenbrock, STARTS, 60, LBFGS(FULL))
    assert values[-1].max() < 1e-6
    torch.testing.assert_close(points[-1], torch.ones(3, 4), rtol=0, atol=2e-3)


def test_the_first_step_has_the_length_that_was_asked_for():
    points, _, _ = descend(rosenbrock, STARTS, 2, LBFGS(FULL))
    assert (points[1] - points[0]).norm(dim=1).tolist() == pytest.approx([LR] * 3, rel=1e-5)


def test_after_enough_failures_the_history_is_forgotten():
    """A loss that looks worse than it is: the trial goes back six times, then starts anew along the gradient."""
    points, _, memory = descend(
        rosenbrock, STARTS, 14, LBFGS(FULL), lambda step, loss: loss + (1e6 if step > 7 else 0) * (torch.arange(3) == 1)
    )
    assert memory[IMAGES]["pairs"][1] == 0
    assert (memory[IMAGES]["pairs"][[0, 2]] > 3).all()
    untroubled, _, _ = descend(rosenbrock, STARTS, 14, LBFGS(FULL))
    for i in (0, 2):
        assert torch.equal(torch.stack(points)[:, i], torch.stack(untroubled)[:, i]), "the others do not notice"
    assert memory[IMAGES]["tries"][1] == 0
    assert torch.equal(memory[IMAGES]["way"][1], memory[IMAGES]["gradient"][1])
    assert memory[IMAGES]["length"][1] < 0, "backwards along the gradient"


@pytest.mark.parametrize(("generator", "accepted"), [(FULL, False), (HALF, True)], ids=["float32", "bfloat16"])
def test_a_rise_within_the_rounding_of_16_bits_is_no_failure(generator, accepted):
    """Loss 1 + 5e-4 after 1, on a level ground that is all rounding."""
    _, _, memory = descend(
        lambda x: 1 + 1e-9 * x.sum(dim=1), STARTS, 2, LBFGS(generator), lambda step, loss: loss + 5e-4 * step
    )
    assert (memory[IMAGES]["tries"] == (0 if accepted else 1)).all()


def test_trials_that_a_clip_pulls_back_are_judged_by_the_way_they_went(generator, targets):  # noqa: F811
    problem = make(generator, targets, steps=25, lr=1.0, optimizer="lbfgs", optimize=[{"name": "w+"}])
    low = problem.start.ws.min() - 0.3

    class Floor(type(problem.lens)):
        def project_(self, variables):
            variables["w+/w"].clamp_(min=low)

    problem.lens.__class__ = Floor
    state, steps = work(problem)
    assert state.best["w+/w"].min() == low
    adam = make(generator, targets, steps=25, lr=0.1)
    adam.lens.__class__ = Floor
    _, slow = work(adam)
    for i in range(3):
        assert min(losses(steps, i)) < min(losses(slow, i))


def test_variables_that_all_images_share_have_one_line_search(generator, targets):  # noqa: F811
    from dataclasses import replace

    problem = replace(make(generator, targets, steps=20, lr=0.5, optimizer="lbfgs"), lens=Common())
    state, steps = work(problem)
    assert len(state.moments[IMAGES]["loss"]) == 1 or not state.rows.numel()
    adam = replace(make(generator, targets, steps=20), lens=Common())
    assert state.best_loss[0] < work(adam)[0].best_loss[0]
    assert sum(steps[-1].best_loss) == pytest.approx(3 * steps[-1].best_loss[0])


def test_variables_of_which_only_some_are_shared_are_refused(generator, targets):  # noqa: F811
    shared = {"name": "weights", "shared": True}
    problem: Problem = make(generator, targets, optimizer="lbfgs", optimize=["w+", shared])
    with pytest.raises(UsageError, match="share all variables or none"):
        work(problem)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"jitter": {"scale": 0.1}}, "jitter changes them"),
        ({"noise_mode": "random"}, "noise_mode = 'random' changes them"),
        ({"terms": ["l2", "locality"]}, "the term locality changes them"),
        ({"schedule": "cosine"}, "without a schedule"),
        ({"keep": "last"}, "without keep = 'last'"),
        ({"optimize": [{"name": "w+", "lr": 0.1}]}, "without a rate for one space"),
    ],
    ids=str,
)
def test_what_changes_the_loss_between_steps_is_refused(changes, said):
    stage = {"init": "mean", "steps": 3, "lr": 1.0, "optimize": ["w+"], "terms": ["l2"], "optimizer": "lbfgs"}
    Recipe.from_table({"stages": [stage]})
    with pytest.raises(UsageError, match=rf"stages\.0: lbfgs .*{said}"):
        Recipe.from_table({"stages": [stage | changes]})
    Recipe.from_table({"stages": [stage | changes | {"optimizer": "adam"}]})


@pytest.mark.parametrize("options", [{"history": 0}, {"tries": 0}, {"c1": -0.1}, {"c1": 1.0}], ids=str)
def test_options_that_cannot_be_meant(generator, targets, options):  # noqa: F811
    with pytest.raises(UsageError, match=f"lbfgs: {next(iter(options))} must be"):
        make(generator, targets, optimizer={"name": "lbfgs", **options})
