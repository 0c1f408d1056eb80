"""The optimiser loop: what is kept, who stops when, what goes wrong for one image and leaves the others alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor

from latentopt.devices import Profile
from latentopt.errors import LatentoptError, UsageError
from latentopt.files.toml import parse_toml
from latentopt.loop.building import build_problem
from latentopt.loop.loop import MAX_RETRIES, State, Step, minimise
from latentopt.loop.measuring import _laid_out, measure
from latentopt.loop.problem import Objective, Problem
from latentopt.protocols import Parameterization, Term
from latentopt.recipe.recipe import Recipe
from latentopt.registry import OPTIMIZERS, SCHEDULES
from latentopt.types import GeneratorInputs, View

TOLERANCE = 1e-4  # on latents of size 1: images alone or in a batch differ by the rounding of the convolutions
SEEDS = (11, 22, 33)


@pytest.fixture(scope="module")
def generator():
    """8x8 pixels, 4 rows of w [16]: the loop knows nothing of sizes."""
    return make_tiny_generator(channels=(8, 6))


@pytest.fixture(scope="module")
def targets(generator) -> Tensor:
    """[3,3,8,8]: images that the generator can draw."""
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(9))
    return generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z))))


def make(generator, target, seeds=SEEDS, mask=None, **stage) -> Problem:
    """A one-stage problem on `target`: W+ from the mean by l2, unless `stage` says otherwise."""
    settings = {"init": "mean", "steps": 10, "lr": 0.05, "optimize": ["w+"], "terms": ["l2"]} | stage
    recipe = Recipe.from_table({"stages": [settings]})
    return build_problem(generator, recipe.stages[0], target, seeds[: len(target)], mask)


def work(problem: Problem) -> tuple[State, list[Step]]:
    state = State.initial(problem)
    return state, list(minimise(problem, state))


def with_term(problem: Problem, term: Term) -> Problem:
    return replace(problem, objective=Objective({"l2": (1.0, term)}))


class Injected(Term):
    """The term, but `fault(image, step, value)` in place of the value where it gives one. Images are counted from 0."""

    def __init__(self, problem: Problem, fault, images=None) -> None:
        self.problem, self.fault = problem, fault
        self.images = list(range(len(problem.target))) if images is None else images

    def __call__(self, view: View) -> Tensor:
        value = problem_term(self.problem)(view)
        step = round(view.t * self.problem.stage.steps)
        return torch.stack([self.fault(i, step, v) for i, v in zip(self.images, value, strict=True)])

    def index(self, rows: Tensor) -> Term:
        return Injected(self.problem, self.fault, [self.images[i] for i in rows.tolist()])


class Crowded(Term):
    """The term, out of memory above `limit` images."""

    def __init__(self, problem: Problem, limit: int, error: Exception) -> None:
        self.problem, self.limit, self.error, self.sizes = problem, limit, error, []

    def index(self, rows: Tensor) -> Term:
        return self

    def __call__(self, view: View) -> Tensor:
        self.sizes.append(len(view.image))
        if len(view.image) > self.limit:
            raise self.error
        return problem_term(self.problem)(view)


def problem_term(problem: Problem) -> Term:
    return problem.objective.terms["l2"][1]


def nan_at(image: int, steps, spoil=lambda value: value * math.nan):
    return lambda i, step, value: spoil(value) if i == image and step in steps else value


def losses(steps: list[Step], image: int, name: str = "loss") -> list[float]:
    """The history of one image."""
    return [getattr(s, name)[s.rows.index(image)] for s in steps if image in s.rows]


def test_the_loss_falls_and_the_last_update_is_judged(generator, targets):
    problem = make(generator, targets, steps=30, lr=0.02)
    state, steps = work(problem)
    assert [s.step for s in steps] == list(range(31))
    assert steps[0].t == 0
    assert steps[-1].t == 1
    for i in range(3):
        assert losses(steps, i)[-1] < 0.4 * losses(steps, i)[0]
    assert state.status == ["done"] * 3
    assert state.best_step.tolist() == [30] * 3, "a falling loss is best at the end: the point after the last update"


def test_no_steps_is_one_measurement_of_the_start(generator, targets):
    problem = make(generator, targets, steps=0, jitter={"scale": 1.0})
    state, steps = work(problem)
    assert len(steps) == 1
    assert torch.equal(state.best["w+/w"], problem.start.ws)
    assert state.best_loss.isfinite().all()


def test_best_is_each_images_own_and_is_what_was_measured(generator, targets):
    problem = make(generator, targets, lr=1.5, steps=25)  # far too fast: the loss goes up and down
    state, steps = work(problem)
    for i in range(3):
        history = losses(steps, i)
        assert state.best_loss[i] == min(history)
        assert state.best_step[i] == history.index(min(history))
        assert min(history) < history[-1], "otherwise this test shows nothing"
    assert len(set(state.best_step.tolist())) > 1
    with torch.no_grad():
        measured, _ = problem.loss(state.best, 25)
    torch.testing.assert_close(measured, state.best_loss, rtol=1e-5, atol=1e-6)
    assert [s.best_loss[0] for s in steps] == [min(losses(steps, 0)[: i + 1]) for i in range(len(steps))]


def test_keep_last(generator, targets):
    state, steps = work(make(generator, targets, lr=0.6, steps=25, keep="last"))
    assert state.best_step.tolist() == [25] * 3
    assert state.best_loss.tolist() == steps[-1].loss


@pytest.mark.parametrize("space", ["w", "w+", "z"])
def test_the_start_is_untouched(generator, targets, space):
    problem = make(generator, targets, optimize=[space])
    before = problem.start.ws.clone()
    work(problem)
    assert torch.equal(problem.start.ws, before)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.targets, {"name": "sgd", "momentum": 0.9}], ids=str)
def test_an_images_result_does_not_depend_on_its_companions(generator, targets, optimizer):
    """Alone, in a batch, in another order, in chunks: the same within TOLERANCE. The second stops at once."""
    lr = 2.0 if "sgd" in str(optimizer) else 0.05
    companions = targets.clone()
    companions[1] = generator.synthesis(GeneratorInputs(generator.broadcast(generator.w_avg[None])))[0]
    steps = 10 if optimizer == "lbfgs" else 15  # it divides by small curvatures, and so makes rounding grow
    settings = {"optimizer": optimizer, "lr": lr, "steps": steps, "stop": {"below": 1e-6}}
    together, records = work(make(generator, companions, **settings))
    assert together.status == ["done", "stopped: loss <= 1e-06", "done"]
    assert [len(s.rows) for s in records] == [3] + [2] * steps
    assert losses(records, 0)[-1] < 0.9 * losses(records, 0)[0]
    alone, _ = work(make(generator, companions[:1], **settings))
    order = [2, 0, 1]
    turned, _ = work(make(generator, companions[order], tuple(SEEDS[i] for i in order), **settings))
    chunked, _ = work(make(generator, companions, **settings, batch=2))
    start = together.best["w+/w"][1, 0]
    assert (together.best["w+/w"][0] - start).abs().max() > 100 * TOLERANCE
    for other, row in ((alone, 0), (turned, 1), (chunked, 0)):
        torch.testing.assert_close(other.best["w+/w"][row], together.best["w+/w"][0], rtol=0, atol=TOLERANCE)


def test_finished_images_do_not_move(generator, targets):
    """Momentum would carry them on: what they were when they stopped is what they stay."""
    problem = make(generator, targets, steps=50, lr=0.05, stop={"below": 0.06}, keep="last")
    state, kept = State.initial(problem), {}
    for step in minimise(problem, state):
        for row, status in zip(step.rows, step.status, strict=True):
            if status != "running":
                kept[row] = (step.step, state.best["w+/w"][row].clone())
    assert len({at for at, _ in kept.values()}) == 3, "the images stop at different steps"
    for row, (_, w) in kept.items():
        assert torch.equal(state.best["w+/w"][row], w)
    assert state.best_step.tolist() == [kept[i][0] for i in range(3)]


def test_the_threshold_is_checked_before_the_update(generator, targets):
    problem = make(generator, targets, stop={"term": "l2", "below": 1e3})
    state, steps = work(problem)
    assert len(steps) == 1
    assert torch.equal(state.best["w+/w"], problem.start.ws)
    assert state.status == ["stopped: l2 <= 1000"] * 3


def test_threshold_of_a_part_that_is_not_the_loss(generator, targets):
    state, steps = work(make(generator, targets, terms=["l2", "l1"], stop={"term": "l1", "below": 0.25}, steps=50))
    for i in range(3):
        history = [s.parts["l1"][s.rows.index(i)] for s in steps if i in s.rows]
        assert history[-1] <= 0.25
        assert all(value > 0.25 for value in history[:-1])
    assert all(text.startswith("stopped: l1") for text in state.status)


def test_patience(generator, targets):
    state, steps = work(make(generator, targets, lr=0.0, steps=20, stop={"patience": 4}))
    assert [s.step for s in steps] == [0, 1, 2, 3, 4]
    assert state.status == ["stopped: no gain in 4 steps"] * 3


def test_patience_starts_when_the_jitter_ends(generator, targets):
    stop, jitter = {"patience": 3}, {"scale": 0.05, "ramp": 0.5}
    _, steps = work(make(generator, targets, lr=0.0, steps=20, stop=stop, jitter=jitter))
    assert steps[-1].step == 13


def test_patience_measures_a_relative_gain(generator, targets):
    problem = make(generator, targets[:1], steps=20, stop={"patience": 2, "tolerance": 0.1})
    slow = Injected(problem, lambda i, step, value: value * 0 + 0.97**step)
    _, steps = work(with_term(problem, slow))
    # 0.97^2 > 0.9 at step 2: no gain; with a hundredth part as tolerance it never stops
    assert steps[-1].step == 2
    patient = replace(problem, stage=replace(problem.stage, stop=replace(problem.stage.stop, tolerance=0.01)))
    assert work(with_term(patient, slow))[1][-1].step == 20


def test_jittered_measurements_do_not_count_as_best(generator, targets):
    problem = make(generator, targets, steps=20, jitter={"scale": 0.5, "ramp": 0.5}, lr=0.0)
    state, steps = work(problem)
    assert problem.w_std == pytest.approx(float(spread(generator)), rel=0.05)
    assert [s.best_loss[0] for s in steps[:10]] == [math.inf] * 10
    assert state.best_step.tolist() == [10] * 3
    clean = losses(steps, 0)[10:]
    assert max(clean) - min(clean) < 1e-7, "the rate is 0: without jitter nothing changes"
    assert len(set(losses(steps, 0)[:10])) == 10
    expected = [problem.w_std * 0.5 * (1 - s / 10) ** 2 if s < 10 else 0 for s in range(21)]
    assert [problem.jitter_std(s) for s in range(21)] == pytest.approx(expected)


def spread(generator) -> Tensor:
    w = generator.mapping(torch.randn(5000, 16, generator=torch.Generator().manual_seed(4)))
    return (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt()


def test_jitter_that_never_ends_is_left_out_of_the_closing_measurement(generator, targets):
    state, _ = work(make(generator, targets, steps=10, jitter={"scale": 0.01, "ramp": 2.0}))
    assert state.best_step.tolist() == [10] * 3
    assert state.best_loss.isfinite().all()


# Faults


@pytest.mark.parametrize(
    "spoil",
    [lambda v: v * math.nan, lambda v: v * math.inf, lambda v: v + math.nan],
    ids=["nan", "inf", "nan with a finite gradient"],
)
def test_one_non_finite_loss_rolls_that_image_back(generator, targets, spoil):
    problem = make(generator, targets, steps=12, optimizer="adam")
    untroubled, _ = work(problem)
    state, seen = State.initial(problem), False
    for step in minimise(with_term(problem, Injected(problem, nan_at(1, {4}, spoil))), state):
        if step.step == 4:
            assert not math.isfinite(step.loss[1])
            seen = True
            assert torch.equal(state.variables["w+/w"][1], state.best["w+/w"][1]), "back at its best, and not moved"
            assert state.moments["w+/w"]["exp_avg"][1].abs().max() == 0
            assert state.moments["w+/w"]["exp_avg"][0].abs().max() > 0
            assert state.rate.tolist() == [1.0, 0.5, 1.0]
    assert seen
    assert state.status == ["done", "unsteady: no finite loss in 1 step", "done"], "said, though it recovered"
    for other in (0, 2):
        assert torch.equal(state.best["w+/w"][other], untroubled.best["w+/w"][other]), "the others do not notice"
    assert state.best_loss[1] < 0.9 * losses_at_start(problem)[1]


@pytest.mark.parametrize(("per", "shape"), [("image", (64,)), ("row", (4, 16))])
def test_momentum_goes_by_directions_alone(generator, targets, per, shape):
    """Every gradient at length 1, of the image or of each of its rows; the image whose rate was halved goes half."""
    optimizer = OPTIMIZERS.create("momentum", generator, decay=0.5, per=per)
    x, memory = {"w": torch.zeros(3, 4, 16)}, {}
    gradients = torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(3)) * 1e-4
    scale, m = torch.tensor([1.0, 0.5, 1.0]), 0
    for gradient in gradients:
        before = x["w"].clone()
        optimizer.step(x, {"w": gradient}, torch.ones(3), memory, {"w": 0.2}, scale)
        unit = gradient.reshape(3, *shape)
        m = 0.5 * m + (unit / unit.norm(dim=-1, keepdim=True)).reshape(3, 4, 16)
        torch.testing.assert_close(x["w"], before - 0.2 * scale[:, None, None] * m)


def test_a_profile_counts_every_moment_once(generator, targets):
    """The parts add up to the whole, and each is there."""
    profile = Profile()
    started = profile.since
    problem = replace(make(generator, targets, steps=3), profile=profile)
    work(problem)
    rows = profile.table()
    assert {name for name, _, _ in rows} >= {"generator", "terms", "optimizer", "records", "rest"}
    assert all(seconds > 0 for _, seconds, _ in rows)
    assert sum(seconds for _, seconds, _ in rows) == pytest.approx(profile.since - started)
    assert sum(share for _, _, share in rows) == pytest.approx(1)


def losses_at_start(problem: Problem) -> Tensor:
    with torch.no_grad():
        return problem.loss(State.initial(problem).variables, 0)[0]


def test_the_rate_is_halved_for_the_image_that_failed(generator, targets):
    problem = make(generator, targets, steps=8, optimizer="sgd", lr=1.0)
    faulty = with_term(problem, Injected(problem, nan_at(1, {2, 3})))
    state, before, moved = State.initial(problem), None, {}
    for step in minimise(faulty, state):
        if step.step == 8:
            break
        if before is not None:
            moved[step.step] = (state.variables["w+/w"] - before).flatten(1).norm(dim=1)
        before = state.variables["w+/w"].clone()
        if step.step == 3:
            assert state.rate.tolist() == [1.0, 0.25, 1.0]
            assert state.retries.tolist() == [0, 2, 0]
    # after the fault it goes on from the same point, with a quarter of the plain step
    assert moved[4][1] > 0
    point = {"w+/w": before_step(problem, 2)[1:2].clone().requires_grad_()}
    loss, _ = problem.index(torch.tensor([1])).loss(point, 4)
    (gradient,) = torch.autograd.grad(loss.sum(), [point["w+/w"]])
    assert moved[4][1].item() == pytest.approx(0.25 * gradient.norm().item(), rel=1e-3)


def before_step(problem: Problem, step: int) -> Tensor:
    """The best point of an untroubled run before its measurement at `step`."""
    state = State.initial(problem)
    for record in minimise(problem, state):
        if record.step == step - 1:
            break
    return state.best["w+/w"]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.targets, {"name": "sgd", "momentum": 0.9}], ids=str)
def test_an_image_that_stays_non_finite_fails_alone(generator, targets, optimizer):
    problem = make(generator, targets, steps=12, optimizer=optimizer)
    state, steps = work(with_term(problem, Injected(problem, nan_at(1, range(2, 99)))))
    assert state.status == ["done", "failed: the loss is not finite", "done"]
    assert len(losses(steps, 1)) == 2 + MAX_RETRIES + 1
    assert all(v.isfinite().all() for v in state.best.values())
    alone, _ = work(make(generator, targets[:1], steps=12, optimizer=optimizer))
    torch.testing.assert_close(state.best["w+/w"][:1], alone.best["w+/w"], rtol=0, atol=2 * TOLERANCE)


@pytest.mark.parametrize("another_left", [False, True], ids=["", "after another image left"])
def test_while_jitter_is_on_an_image_returns_to_its_last_finite_point(generator, targets, another_left):
    """No point counts as best then; to go back to the start would throw the work away."""
    problem = make(generator, targets, steps=12, jitter={"scale": 0.05, "ramp": 0.9})

    def fault(i, step, value):
        return value * math.nan if (i, step) == (1, 4) or (another_left and (i, step) == (0, 0)) else value

    state, points = State.initial(problem), []
    for step in minimise(with_term(problem, Injected(problem, fault)), state):
        points.append(state.variables["w+/w"][state.rows.tolist().index(1)].clone())
        if step.step == 5:
            break
    assert state.rows.tolist() == ([1, 2] if another_left else [0, 1, 2])
    assert state.best_loss.isinf().all()
    assert torch.equal(points[4], points[2]), "what was measured at step 3"
    assert not torch.equal(points[2], problem.start.ws[1])
    assert not torch.equal(points[5], points[4]), "and on from there"


def test_non_finite_gradients_count_as_non_finite_loss(generator, targets):
    def fault(i, step, value):  # the value is fine, its gradient infinite
        return value + (value - value.detach()).abs().sqrt() if i == 1 and step in (3, 4) else value

    problem = make(generator, targets, steps=8)
    state, steps = work(with_term(problem, Injected(problem, fault)))
    assert all(map(math.isfinite, losses(steps, 1)))
    assert state.status == ["done", "unsteady: no finite loss in 2 steps", "done"]
    assert all(v.isfinite().all() for v in state.best.values())
    assert state.best_loss[1] < losses(steps, 1)[0]


def test_a_start_that_is_not_finite_fails_at_once(generator, targets):
    problem = make(generator, targets, steps=5)
    ws = problem.start.ws.clone()
    ws[1] = math.nan
    state, steps = work(replace(problem, start=GeneratorInputs(ws)))
    assert state.status == ["done", "failed: the loss is not finite at the start", "done"]
    assert [len(s.rows) for s in steps] == [3] + [2] * 5


def test_a_run_in_which_no_measurement_that_counts_is_finite_has_failed(generator, targets):
    """All clean steps of the image are non-finite, but there are too few of them to use up the retries."""
    problem = make(generator, targets, steps=8, jitter={"scale": 0.01, "ramp": 0.9})
    state, _ = work(with_term(problem, Injected(problem, nan_at(1, {8}))))
    assert state.status == ["done", "failed: the loss is not finite", "done"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_halves_the_chunk(generator, targets, error):
    problem = make(generator, targets, steps=6, terms=["l2"])
    plain, _ = work(problem)
    crowded = Crowded(problem, 1, error)
    state, steps = work(replace(problem, objective=IndexedTerm(crowded)))
    assert (state.chunk, len(steps)) == (1, 7)
    assert crowded.sizes == [3, 2] + [1] * 21
    torch.testing.assert_close(state.best["w+/w"], plain.best["w+/w"], rtol=0, atol=TOLERANCE)


class IndexedTerm(Objective):
    """One l2 that sees every chunk."""

    def __init__(self, term: Term) -> None:
        super().__init__({"l2": (1.0, term)})


def test_out_of_memory_at_one_image_says_what_to_do(generator, targets):
    problem = make(generator, targets)
    with pytest.raises(LatentoptError, match=r"out of memory with one image.*--dtype bfloat16"):
        work(with_term(problem, Crowded(problem, 0, torch.OutOfMemoryError("no"))))


def test_other_errors_are_not_taken_for_lack_of_memory(generator, targets):
    problem = make(generator, targets)
    with pytest.raises(RuntimeError, match="shapes differ"):
        work(with_term(problem, Crowded(problem, 0, RuntimeError("shapes differ"))))


def test_a_loss_that_nothing_reaches_is_refused(generator, targets):
    with pytest.raises(UsageError, match="nothing that is optimised reaches the loss"):
        work(make(generator, targets, terms=["noise"]))


@pytest.mark.parametrize(
    ("changes", "drawn"), [({"img_channels": 1}, "1, 8, 8"), ({"channels": (8, 6, 4)}, "3, 16, 16")], ids=str
)
def test_a_generator_that_draws_other_shapes_than_the_targets_is_refused(targets, changes, drawn):
    """One channel would be compared with all three without an error."""
    other = make_tiny_generator(**{"channels": (8, 6)} | changes)
    with pytest.raises(UsageError, match=rf"draws images \[{drawn}\]; the targets are \[3, 8, 8\]"):
        work(make(other, targets))


# Schedules


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0.0, 0.0),
        (0.025, 0.5),
        (0.05, 1.0),
        (0.5, 1.0),
        (0.75, 1.0),
        (0.875, 0.5),
        (0.9375, 0.5 - 0.5 * math.cos(math.pi / 4)),
        (1.0, 0.0),
    ],
)
def test_karras_schedule(t, expected):
    assert SCHEDULES.create("karras")(t) == pytest.approx(expected, abs=1e-12)


def test_schedule_ends():
    assert SCHEDULES.create("constant")(0.3) == 1
    assert [SCHEDULES.create("cosine", final=0.2)(t) for t in (0, 0.5, 1)] == pytest.approx([1, 0.6, 0.2])
    assert SCHEDULES.create("karras", rampup=0.0, rampdown=0.0)(1.0) == 1


def test_the_rate_follows_the_schedule_and_the_space(generator, targets):
    """Karras starts at 0: the first update moves nothing. A space's own rate replaces the stage's."""
    optimize = [{"name": "w", "lr": 0.5}, "noise"]
    problem = make(generator, targets, optimize=optimize, lr=0.1, steps=20, schedule="karras")
    state = State.initial(problem)
    points = [{name: v.clone() for name, v in state.variables.items()}]
    rates = []
    for step in minimise(problem, state):
        points.append({name: v.clone() for name, v in state.variables.items()})
        rates.append(step.lr)
        if step.step == 1:
            break
    assert rates == pytest.approx([0.0, 0.1])
    assert all(torch.equal(points[0][name], points[1][name]) for name in points[0] if name.startswith("w/"))
    moved = (points[2]["w/w"] - points[1]["w/w"]).abs().max().item()
    assert 0.3 < moved <= 0.5 * 1.4  # Adam with a momentum of one unscaled step: about the rate
    noise = (points[2]["noise/b8.conv1"] - points[1]["noise/b8.conv1"]).abs().max().item()
    assert noise < 0.25


# Seeds


@pytest.mark.parametrize("settings", [{"jitter": {"scale": 0.2}}, {"noise_mode": "random"}], ids=["jitter", "noise"])
def test_randomness_depends_on_the_images_own_seed_alone(generator, targets, settings):
    def result(images, seeds):
        return work(make(generator, images, seeds, steps=12, **settings))[0].best["w+/w"]

    first = result(targets, (1, 2, 3))
    assert torch.equal(result(targets, (1, 2, 3)), first)
    turned = result(targets[[2, 0, 1]], (3, 1, 2))
    torch.testing.assert_close(turned, first[[2, 0, 1]], rtol=0, atol=TOLERANCE)
    other = result(targets, (1, 99, 3))
    torch.testing.assert_close(other[[0, 2]], first[[0, 2]], rtol=0, atol=TOLERANCE)
    assert (other[1] - first[1]).abs().max() > 100 * TOLERANCE


def test_random_noise_is_new_in_every_step_layer_and_image(generator, targets):
    problem = make(generator, targets, noise_mode="random", jitter={"scale": 0.1})
    drawn = [problem.with_random_noise(problem.start, step).noise for step in (0, 1)]
    flat = [noise[name].flatten(1)[:, :16] for noise in drawn for name in noise]
    flat += [problem.normal(step, (1, 16)).flatten(1) for step in range(15)]  # the jitter's
    rows = torch.cat(flat)
    assert len(rows.unique(dim=0)) == len(rows)


def test_explicit_noise_is_kept_when_the_rest_is_random(generator, targets):
    problem = make(generator, targets, noise_mode="random", optimize=["w", "noise"])
    inputs = problem.lens.decode(State.initial(problem).variables, problem.start)
    torch.testing.assert_close(problem.draw(inputs, 0)[0], problem.draw(inputs, 1)[0])


# What else passes through


def test_the_first_record_says_what_encoding_cost(generator, targets):
    z = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    mixed = GeneratorInputs(generator.mapping(z).unflatten(0, (3, -1)))
    problem = make(generator, targets, optimize=["w"], steps=2)
    problem = replace(problem, start=mixed)
    _, steps = work(problem)
    expected = (mixed.ws - mixed.ws.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    assert steps[0].encoding_cost == pytest.approx(expected.tolist(), rel=1e-4)
    assert steps[1].encoding_cost is None


def test_a_masked_part_is_not_fitted(generator, targets):
    mask = torch.ones(3, 1, 8, 8)
    mask[..., :4] = 0
    problem = make(generator, targets, mask=mask)
    spoiled = targets.clone()
    spoiled[..., :4] = 5.0
    a, _ = work(problem)
    b, _ = work(make(generator, spoiled, mask=mask))
    torch.testing.assert_close(a.best["w+/w"], b.best["w+/w"], rtol=0, atol=TOLERANCE)
    with torch.no_grad():
        loss, _ = problem.loss(State.initial(problem).variables, 0)
        image = generator.synthesis(problem.start)
    torch.testing.assert_close(loss, (image - targets)[..., 4:].square().mean(dim=(1, 2, 3)))


def test_bfloat16(generator, targets):
    generator = copy.deepcopy(generator).set_precision(torch.bfloat16)
    generator.set_memory_format(torch.channels_last)
    state, steps = work(make(generator, targets, steps=20))
    assert all(s.status == ["running"] * 3 for s in steps[:-1])
    assert state.best["w+/w"].dtype == torch.float32
    for i in range(3):
        assert state.best_loss[i] < 0.4 * losses(steps, i)[0]


@pytest.mark.parametrize("terms", [["l2", {"name": "l1", "weight": 0.5}]])
def test_the_loss_is_the_weighted_sum(generator, targets, terms):
    problem = make(generator, targets, terms=terms, steps=1)
    _, (first, _) = work(problem)
    for i in range(3):
        assert first.loss[i] == pytest.approx(first.parts["l2"][i] + 0.5 * first.parts["l1"][i], rel=1e-6)


@pytest.mark.parametrize("batch", [3, 1])
def test_seeds_and_masks_stay_with_their_images_when_another_leaves(generator, targets, batch):
    """Image 0 fails at the start; the others are as they are alone, in one piece or in chunks."""
    mask = torch.ones(3, 1, 8, 8)
    mask[1, :, :4], mask[2, :, :, :3] = 0, 0
    settings = {"noise_mode": "random", "jitter": {"scale": 0.2}, "steps": 8, "batch": batch}
    problem = make(generator, targets, mask=mask, **settings)
    ws = problem.start.ws.clone()
    ws[0] = math.nan
    state, _ = work(replace(problem, start=GeneratorInputs(ws)))
    assert [text.split(":")[0] for text in state.status] == ["failed", "done", "done"]
    for i in (1, 2):
        alone, _ = work(make(generator, targets[[i]], SEEDS[i : i + 1], mask[[i]], **settings))
        torch.testing.assert_close(state.best["w+/w"][i], alone.best["w+/w"][0], rtol=0, atol=TOLERANCE)


class Common(Parameterization):
    """The ws of all images plus one offset that they share: [1,L,C]."""

    def encode(self, inputs: GeneratorInputs) -> dict[str, Tensor]:
        return {"offset": torch.zeros_like(inputs.ws[:1])}

    def decode(self, variables: dict[str, Tensor], inputs: GeneratorInputs) -> GeneratorInputs:
        return inputs.replace(ws=inputs.ws + variables["offset"])

    def penalty(self, variables: dict[str, Tensor]) -> Tensor:
        return 1e-3 * variables["offset"].square().sum(dim=(1, 2))


def shared(problem: Problem) -> Problem:
    return replace(problem, lens=Common())


def test_shared_variables_have_one_best_point_and_one_end(generator, targets):
    problem = shared(make(generator, targets, lr=1.5, steps=25))
    state, steps = work(problem)
    means = [sum(s.loss) / 3 for s in steps]
    assert state.best["offset"].shape == (1, 4, 16)
    assert state.best_step.tolist() == [means.index(min(means))] * 3
    assert state.best_loss.tolist() == pytest.approx([min(means)] * 3, rel=1e-6)
    assert state.status == ["done"] * 3


def test_shared_variables_in_chunks_are_those_of_the_whole_batch(generator, targets):
    whole, _ = work(shared(make(generator, targets)))
    parts, _ = work(shared(make(generator, targets, batch=2)))
    assert parts.chunk == 2
    assert (parts.best["offset"] - whole.best["offset"]).abs().max() < TOLERANCE


def test_shared_variables_stop_when_every_image_has_reached_the_bound(generator, targets):
    problem = shared(make(generator, targets, steps=40))
    _, free = work(problem)
    bound = sorted(free[20].loss)[1]  # one image at least is below it long before all are
    state, steps = work(shared(make(generator, targets, steps=40, stop={"term": "l2", "below": bound})))
    assert any(min(s.parts["l2"]) <= bound for s in steps[:-1])
    assert all(s.rows == [0, 1, 2] for s in steps)
    assert len(set(state.status)) == 1


@pytest.mark.parametrize(("image", "steps", "failed"), [(1, (3, 4), ()), (1, (0,), (1,)), (2, range(2, 99), (0, 1, 2))])
def test_shared_variables_roll_back_together(generator, targets, image, steps, failed):
    """A loss that is not finite turns all of them back; an image that is so from the start leaves the others."""
    problem = shared(make(generator, targets, steps=12))
    state, records = work(with_term(problem, Injected(problem, nan_at(image, steps))))
    assert [i for i, text in enumerate(state.status) if text.startswith("failed")] == list(failed)
    assert state.best["offset"].isfinite().all()
    if not failed:
        assert records[-1].best_loss[0] < sum(records[0].loss) / 3


def test_ngd_moves_every_code_by_the_rate(generator):
    """Whatever the gradient's size; in w++ every filter's. What is no code goes by the norm of all of it."""
    optimizer = OPTIMIZERS.create("ngd", generator)
    variables = {"w": torch.zeros(2, 8, 16), "z": torch.zeros(2, 16), "noise": torch.zeros(2, 1, 4, 4)}
    rng = torch.Generator().manual_seed(0)
    gradients = {
        name: torch.randn(v.shape, generator=rng)
        * 10.0 ** torch.arange(-3, -3 + len(v)).reshape(-1, *[1] * (v.ndim - 1))
        for name, v in variables.items()
    }
    gradients["w"][1, 3] = 0
    optimizer.step(
        variables, gradients, torch.ones(2), {}, {"w": 0.1, "z": 0.2, "noise": 0.4}, torch.tensor([1.0, 0.5])
    )
    lengths = variables["w"].norm(dim=2)
    expected = torch.tensor([[0.1], [0.05]]).expand(2, 8).clone()
    expected[1, 3] = 0
    torch.testing.assert_close(lengths, expected)
    torch.testing.assert_close(variables["z"].norm(dim=1), torch.tensor([0.2, 0.1]))
    torch.testing.assert_close(variables["noise"].flatten(1).norm(dim=1), torch.tensor([0.4, 0.2]))
    assert (gradients["z"] * variables["z"]).sum() < 0


ROUTED = {
    "optimize": ["w+", {"name": "noise", "lr": 0.01}],
    "terms": [{"name": "l2", "moves": ["w+"]}, {"name": "l1", "weight": 0.5, "moves": ["noise"]}],
}


def gradients_of(problem: Problem) -> dict[str, Tensor]:
    return measure(problem, State.initial(problem)).gradients


def test_a_term_moves_the_spaces_that_it_names_alone(generator, targets):
    """Each space's gradient is that of its terms; the loss is of all."""
    routed, whole = make(generator, targets, **ROUTED), make(generator, targets, optimize=ROUTED["optimize"])
    by_l2 = gradients_of(whole)
    by_l1 = gradients_of(make(generator, targets, optimize=ROUTED["optimize"], terms=[{"name": "l1", "weight": 0.5}]))
    found = gradients_of(routed)
    assert found.keys() == by_l2.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, by_l2[name] if name.startswith("w+/") else by_l1[name])
    _, (first, *_) = work(routed)
    parts = [a + 0.5 * b for a, b in zip(first.parts["l2"], first.parts["l1"], strict=True)]
    assert first.loss == pytest.approx(parts)


def test_terms_that_move_all_and_a_penalty_reach_every_space(generator, targets):
    """Beside a term that moves one space only; the gradients of pieces add up."""
    stage = {"optimize": ["w+", {"name": "f", "size": 4, "l2": 0.3}], "terms": ["l1", {"name": "l2", "moves": ["f"]}]}
    problem = make(generator, targets, **stage)
    variables = problem.lens.encode(problem.start)
    variables["f/residual"] += 0.1
    state = replace(State.initial(problem), variables={name: v.detach().clone() for name, v in variables.items()})
    found = measure(problem, state).gradients
    alone = [make(generator, targets, **(stage | {"terms": [name]})) for name in ("l1", "l2")]
    by_l1, by_l2 = (measure(one, state).gradients for one in alone)
    torch.testing.assert_close(found["w+/w"], by_l1["w+/w"])
    penalty = 0.3 * 2 * 0.1 / variables["f/residual"][0].numel()
    torch.testing.assert_close(found["f/residual"], by_l1["f/residual"] + by_l2["f/residual"] - penalty)


def test_large_layers_are_computed_again_for_each_piece(monkeypatch, targets):
    monkeypatch.setattr("latentopt.generators.recomputing.LARGE", 1)
    generator = make_tiny_generator(channels=(8, 6))
    plain = gradients_of(make(generator, targets, **ROUTED))
    again = gradients_of(make(generator.set_low_memory(True), targets, **ROUTED))
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([{"name": "l2", "moves": ["w+"]}], "no term moves noise"),
        (["l1", {"name": "l2", "moves": ["weights"]}], "weights is not optimised in this stage; did you mean|known"),
        (["l1", {"name": "l2", "moves": []}], "moves must be a list of at least one space"),
        (["l1", {"name": "l2", "moves": "noise"}], "moves must be a list of at least one space"),
        (["l1", {"name": "l2", "moves": ["nois"]}], "unknown space 'nois'; did you mean 'noise'"),
    ],
    ids=str,
)
def test_moves_that_cannot_be_meant(generator, targets, terms, words):
    with pytest.raises(UsageError, match=words):
        make(generator, targets, optimize=["w+", "noise"], terms=terms)


def test_an_optimiser_that_compares_losses_needs_one_loss(generator, targets):
    with pytest.raises(UsageError, match="goes without terms that move some spaces only"):
        make(generator, targets, optimizer="lbfgs", **ROUTED)


def test_moves_are_written_with_the_recipe(generator, targets):
    settings = {"init": "mean", "steps": 1, "lr": 0.1, "optimize": ["wplus", "noise"]}
    terms = [{"name": "l2", "moves": ["wplus"]}, {"name": "l1", "moves": ["noise"]}]
    recipe = Recipe.from_table({"stages": [settings | {"terms": terms}]})
    assert [term["moves"] for term in recipe.stages[0].terms] == [["w+"], ["noise"]]
    assert Recipe.from_table(parse_toml(recipe.dump())) == recipe


def test_gradients_lie_in_memory_as_their_variables_do():
    """An optimiser that works in one kernel goes through both as they lie there."""
    v, gradient = torch.zeros(4, 3).mT, torch.randn(3, 4)
    laid = _laid_out(gradient, v)
    assert laid.stride() == v.stride() != gradient.stride()
    assert torch.equal(laid, gradient)
    assert _laid_out(laid, v) is laid
