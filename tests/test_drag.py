"""Dragging: what the terms measure and remember, by hand; drags of both families, saved and gone on with; the steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import make_tiny_generator, make_tiny_stylegan3
from torch import Tensor

from latentopt.api import drag
from latentopt.dragging.drag import dragging_recipe
from latentopt.dragging.points import as_drags, parse_point
from latentopt.errors import UsageError
from latentopt.files.storage import load_tensors, save_tensors
from latentopt.inverting.batch import Batch
from latentopt.inverting.saved_run import checksum
from latentopt.inverting.saved_state import DamagedState
from latentopt.parameterizations.coarse import Coarse
from latentopt.pictures.marks import GOAL, HANDLE, marked
from latentopt.recipe.recipe import Recipe
from latentopt.terms.drag import Drag, Stays, disc
from latentopt.types import GeneratorInputs, View

SIDE = 32  # of the tiny generator


@pytest.fixture(scope="module")
def stylegan3():
    return make_tiny_stylegan3()


def places(term: Drag | Stays, cells: int) -> tuple[Tensor, Tensor]:
    """x and y in pixels of the picture, of the cells of a square activation: [cells,cells] each."""
    inner = (torch.arange(cells) + 0.5) / cells * 2 - 1
    pixel = ((inner / term.shown + 1) * term.size[0] - 1) / 2
    y, x = torch.meshgrid(pixel, pixel, indexing="ij")
    return x, y


def ramp(term: Drag | Stays, cells: int, x: float = 0.0, y: float = 0.0) -> Tensor:
    """Features [1,2,cells,cells] that are the place itself, moved by (x, y)."""
    columns, rows = places(term, cells)
    return torch.stack([columns - x, rows - y])[None]


def seen(term, features: Tensor, remembered: dict | None = None, mask: Tensor | None = None) -> View:
    nothing = torch.zeros(len(features), 3, SIDE, SIDE)
    inputs = GeneratorInputs(torch.zeros(len(features), 8, 16))
    about = {"features": {term.layer: features}, "remembered": remembered or {}}
    return View(nothing, nothing, inputs, {}, 0.0, mask, **about)


def followed(term, features: Tensor, view: View) -> View:
    """The next measurement, of other features."""
    kept = {**view.remembered, **term.follow(view)}
    after = replace(view, features={term.layer: features}, remembered=kept)
    return replace(after, remembered={**kept, **term.follow(after)})


@pytest.fixture(params=["stylegan2", "stylegan3"])
def generator(request, tiny_generator, stylegan3):
    return tiny_generator if request.param == "stylegan2" else stylegan3


def drag_of(generator, *points, **options) -> Drag:
    side = generator.resolution[0]
    return Drag(generator, torch.zeros(1, 3, side, side), points=[list(point) for point in points], **options)


def test_points_follow_what_they_were_put_on(generator):
    """A ramp says where it is, whatever margin an activation has: what moves by half a pixel is found there."""
    term = drag_of(generator, (5, 6, 9, 6), (8, 7.5, 8, 7), search=24 * 4)
    cells = 24
    view = seen(term, ramp(term, cells))
    first = {**term.follow(view)}
    assert torch.equal(first["points"][0], torch.tensor([[5, 6], [8, 7.5]]))
    torch.testing.assert_close(first["templates"], first["points"], rtol=0, atol=1e-4)
    moved = followed(term, ramp(term, cells, 0.5, -0.25), view)
    wanted = torch.tensor([[[5.5, 5.75], [8.5, 7.25]]])
    torch.testing.assert_close(moved.remembered["points"], wanted, rtol=0, atol=0.13)  # the search goes by eighths


def test_the_first_measurement_is_what_points_are_compared_with(tiny_generator):
    """They do not drift with the features that they pass."""
    term = drag_of(tiny_generator, (10, 10, 20, 10))
    view = seen(term, ramp(term, SIDE))
    for shift in (0.5, 1.0, 1.5):
        view = followed(term, ramp(term, SIDE, shift), view)
    torch.testing.assert_close(view.remembered["points"], torch.tensor([[[11.5, 10.0]]]), rtol=0, atol=0.07)
    assert torch.equal(view.remembered["templates"], term.follow(seen(term, ramp(term, SIDE)))["templates"])


def bump(term: Drag, x: Tensor) -> Tensor:
    """One feature [1,1,h,w]: a hill at (x, 16)."""
    columns, rows = places(term, SIDE)
    return torch.exp(-((columns - x) ** 2 + (rows - 16) ** 2) / 8)[None, None]


@pytest.mark.parametrize(("target", "sign"), [(24.0, -1), (6.0, 1)])
def test_the_loss_falls_when_what_lies_there_moves_towards_the_target(tiny_generator, target, sign):
    term = drag_of(tiny_generator, (16, 16, target, 16))
    x = torch.tensor(16.0, requires_grad=True)
    view = seen(term, bump(term, x))
    value = term(replace(view, remembered={k: v.detach() for k, v in term.follow(view).items()}))
    assert value.item() > 0
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.sign().item() == sign


def test_a_value_by_hand(tiny_generator):
    """On a ramp, one pixel further to the right differs by 1 in x and 0 in y: the mean over both is a half."""
    term = drag_of(tiny_generator, (10, 10, 20, 10), (20, 20, 20, 20.4), (8, 9, 8, 5))
    view = seen(term, ramp(term, SIDE))
    values = term(replace(view, remembered=term.follow(view)))
    assert values.item() == pytest.approx(0.5 + 0 + 0.5, abs=1e-4), "the second is within the radius already"


@pytest.mark.parametrize(("count", "end", "expected"), [(1, 0.4, 0), (1, 0.6, 1), (6, 0.9, 0), (6, 1.1, 1)])
def test_the_radius_is_twice_as_large_for_many_points(tiny_generator, count, end, expected):
    term = drag_of(tiny_generator, *[(10, 10 + k, 10 + end, 10 + k) for k in range(count)])
    view = seen(term, ramp(term, SIDE))
    assert (term(replace(view, remembered=term.follow(view))).item() > 0) == expected


def test_what_stays_counts_outside_the_mask_alone(tiny_generator):
    term = Stays(tiny_generator, torch.zeros(1, 3, SIDE, SIDE))
    before, after = torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16)
    after[..., :8] = 3.0
    mask = torch.zeros(1, 1, SIDE, SIDE)
    for left, expected in ((0, 1.5), (8, 0.75), (16, 0.0)):
        mask[..., :left] = 1
        moved = followed(term, after, seen(term, before, mask=mask))
        assert term(moved).tolist() == pytest.approx([expected])
    free = followed(term, after, seen(term, before))
    assert (free.remembered, term(free).tolist()) == ({}, [0.0])


def test_the_layer_is_chosen_by_what_the_picture_shows_of_it(tiny_generator):
    assert drag_of(tiny_generator, (1, 1, 2, 2)).layer == "b16"
    assert drag_of(tiny_generator, (1, 1, 2, 2), share=1).layer == "b32"
    chosen = drag_of(make_tiny_stylegan3(img_resolution=32), (1, 1, 2, 2))
    assert chosen.layer.split("_")[1] == "36" and chosen.shown == 16 / 36, "half of 32 pixels, and a margin"
    with pytest.raises(UsageError, match="drag: no activation 'b17'; did you mean 'b16'"):
        drag_of(tiny_generator, (1, 1, 2, 2), layer="b17")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (None, "needs points"),
        ([[1, 2, 3]], "lists"),
        ([[1, 2, 3, "a"]], "lists"),
        ([[1, 2, 3, float("nan")]], "lists"),
        ([[[1, 2, 3, 4]]] * 2, "the same for all 3 images or one list each"),
        ([[1, 2, 32, 4]], "outside the picture; x is from 0 to 31"),
        ([[-1, 2, 3, 4]], "outside"),
    ],
    ids=str,
)
def test_points_that_are_none(tiny_generator, points, message):
    with pytest.raises(UsageError, match=message):
        Drag(tiny_generator, torch.zeros(3, 3, SIDE, SIDE), points=points)


@pytest.mark.parametrize(
    "options", [{"patch": 0.0}, {"search": -1.0}, {"stride": float("inf")}, {"share": 0.0}], ids=str
)
def test_numbers_that_mean_nothing(tiny_generator, options):
    with pytest.raises(UsageError, match=f"drag: {next(iter(options))}"):
        drag_of(tiny_generator, (1, 1, 2, 2), **options)


def test_a_disc_by_hand():
    assert sorted(map(tuple, disc(1.0, 1.0).tolist())) == [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]


def test_coarse_moves_the_first_rows_alone(tiny_generator, tiny_inputs):
    for options, rows in (({}, 3), ({"rows": 8}, 8), ({"share": 0.1}, 1)):
        lens = Coarse(tiny_generator, **options)
        variables = lens.encode(tiny_inputs)
        assert variables["u"].shape == (3, rows, 16)
        moved = lens.decode({"u": variables["u"] + 1}, tiny_inputs).ws
        torch.testing.assert_close(moved[:, :rows], tiny_inputs.ws[:, :rows] + lens.sigma)
        assert torch.equal(moved[:, rows:], tiny_inputs.ws[:, rows:])
    for options in ({"rows": 9}, {"rows": 0}, {"share": 1.5}):
        with pytest.raises(UsageError, match="coarse"):
            Coarse(tiny_generator, **options)


# ---- whole drags

POINTS = [[[10, 12, 16, 12]], [[20, 20, 20, 14]], [[8, 25, 11, 22]]]


def recipe_for(points, **stage) -> Recipe:
    return Recipe.load("drag").changed(
        {
            ("stages", 0, "terms"): [{"name": "drag", "points": points}, {"name": "stays", "weight": 5.0}],
            **{("stages", 0, key): value for key, value in stage.items()},
        }
    )


def batch_of(generator, inputs: GeneratorInputs, points, mask=None, **stage) -> Batch:
    target = generator.synthesis(inputs)
    names = tuple("abc"[: len(inputs)])
    made = Batch(generator, recipe_for(points, **stage), target, names, tuple(range(len(inputs))), mask)
    made.inputs = inputs
    return made


def run(batch: Batch) -> list[Tensor]:
    return [batch.remembered("drag/points").clone() for _ in batch.steps()]


def test_an_image_does_not_know_its_companions(tiny_generator, tiny_inputs):
    """Points, features and masks of its own, and an end of its own; also where memory holds two at once."""
    mask = torch.ones(3, 1, SIDE, SIDE)
    mask[1, ..., :10] = 0
    near = [POINTS[0], [[20, 20, 20, 19]], POINTS[2]]
    whole = batch_of(tiny_generator, tiny_inputs, near, mask, steps=6)
    points = run(whole)[-1]
    halves = batch_of(tiny_generator, tiny_inputs, near, mask, steps=6, batch=2)
    torch.testing.assert_close(run(halves)[-1], points)
    for i in range(3):
        alone = batch_of(tiny_generator, tiny_inputs.index([i]), [near[i]], mask[i : i + 1], steps=6)
        torch.testing.assert_close(run(alone)[-1][0], points[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.result.ws[0], whole.result.ws[i], rtol=1e-4, atol=1e-4)
        assert alone.status[0] == whole.status[i]


def test_saved_at_any_step_and_gone_on_with(tiny_generator, tiny_inputs, tmp_path):
    mask = torch.ones(3, 1, SIDE, SIDE)
    mask[..., :10] = 0
    whole = batch_of(tiny_generator, tiny_inputs, POINTS, mask, steps=4)
    points = run(whole)[-1]
    for stop_after in (1, 2, 4):
        broken = batch_of(tiny_generator, tiny_inputs, POINTS, mask, steps=4)
        for _ in zip(range(stop_after), broken.steps(), strict=False):
            pass
        broken.save(tmp_path / "state.safetensors")
        resumed = Batch.load(tmp_path / "state.safetensors", tiny_generator, broken.recipe, broken.target, mask)
        assert torch.equal(run(resumed)[-1], points)
        assert torch.equal(resumed.result.ws, whole.result.ws)


@pytest.mark.parametrize("damage", ["lost", "wide", "nan"])
def test_damaged_memory_is_refused(tiny_generator, tiny_inputs, tmp_path, damage):
    path = tmp_path / "state.safetensors"
    broken = batch_of(tiny_generator, tiny_inputs, POINTS, steps=4)
    next(iter(broken.steps()))
    broken.save(path)
    tensors, metadata = load_tensors(path)
    name = "state|remembered|drag/points"
    changed = {"lost": None, "wide": torch.zeros(3, 2, 2), "nan": tensors[name] * torch.nan}[damage]
    tensors = {k: v for k, v in tensors.items() if k != name} | ({} if changed is None else {name: changed})
    save_tensors(path, tensors, metadata | {"checksum": checksum(tensors, metadata["meta"])})
    with pytest.raises(DamagedState, match="what its terms remember"):
        Batch.load(path, tiny_generator, broken.recipe, broken.target)


def test_drag_yields_steps_from_the_start_on(generator):
    w = generator.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(3)))
    name = next(iter(generator.convolutions.values()))
    deltas = {name: 0.1 * torch.ones(1, *generator.tunable[name])}
    inputs = GeneratorInputs(generator.broadcast(w[:1]), deltas=deltas)
    steps = list(drag(generator, inputs, [((4, 5), (9, 5))], steps=5, lr=0.05))
    assert [step.step for step in steps] == list(range(6))
    assert torch.equal(steps[0].points, torch.tensor([[4.0, 5.0]])), "each step keeps its own points"
    assert torch.equal(steps[0].inputs.ws, inputs.ws) or torch.allclose(steps[0].inputs.ws, inputs.ws, atol=1e-5)
    assert [step.status for step in steps[:-1]] == ["running"] * 5 and steps[-1].status == "done"
    assert steps[-1].distances.tolist() == pytest.approx((steps[-1].targets - steps[-1].points).norm(dim=1).tolist())
    rows = Coarse(generator).rows
    assert torch.equal(steps[-1].inputs.ws[:, rows:], inputs.ws[:, rows:])
    assert not torch.equal(steps[-1].inputs.ws[:, :rows], inputs.ws[:, :rows])
    assert torch.equal(steps[-1].inputs.deltas[name], deltas[name])
    assert not steps[-1].arrived


def test_a_drag_ends_where_all_points_have_arrived(tiny_generator, tiny_inputs):
    steps = list(drag(tiny_generator, tiny_inputs.index([0]), [(4, 5, 4.3, 5), (9, 9, 9, 9)]))
    assert [step.status for step in steps] == ["stopped: drag <= 0"]
    assert steps[0].arrived


def test_drag_reaches_what_another_picture_of_the_generator_shows(tiny_generator, tiny_inputs):
    """Points of a 32x32 picture come nearer in a few steps: of five tries, most."""
    inputs, nearer = tiny_inputs.index([0]), 0
    for x, y in ((8, 8), (16, 12), (22, 20), (12, 22), (20, 8)):
        *_, last = drag(tiny_generator, inputs, [(x, y, x + 2, y)], steps=20, lr=0.05)
        nearer += bool(last.distances[0] < 2)
    assert nearer >= 3


def test_what_drag_refuses_at_the_call(tiny_generator, tiny_inputs):
    one = tiny_inputs.index([0])
    for arguments, message in (
        ((tiny_inputs, [(1, 1, 2, 2)]), "of one picture; these are the inputs of 3"),
        ((one, []), "needs a point"),
        ((one, [(1, 2, 3)]), "a point is"),
        ((one, [(1, 1, 2, 40)]), "outside the picture"),
        ((one, [(1, 1, 2, 2)], torch.ones(8, 8)), "mask is"),
        ((one, [(1, 1, 2, 2)], torch.zeros(SIDE, SIDE)), "zero everywhere"),
        ((one, [(1, 1, 2, 2)], None, "i2s"), "none that drags"),
    ):
        with pytest.raises(UsageError, match=message):
            drag(tiny_generator, *arguments)
    with pytest.raises(UsageError, match=r"radiuss.*did you mean 'radius'"):
        drag(tiny_generator, one, [(1, 1, 2, 2)], radiuss=2.0)
    with pytest.raises(UsageError, match="keep = 'last'"):
        dragging_recipe(Recipe.load("drag").override(["stages.0.keep=best"]), [(1, 1, 2, 2)], {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30,20:34,20.5", (30, 20, 34, 20.5)),
        (" 0 , 0 : 63 , 31 ", (0, 0, 63, 31)),
        ("50%,50%:100%,0%", (31.5, 15.5, 63, 0)),
        ("25%,4:26,4", (15.5, 4, 26, 4)),
    ],
)
def test_points_as_they_are_written(text, expected):
    assert parse_point(text, (32, 64)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2:3", "1,2:3,4:5,6", "a,b:c,d", "1;2:3;4", "64,1:2,2", "1,1:1,101%", "-1,1:2,2"]
)
def test_texts_that_are_no_points(text):
    with pytest.raises(UsageError, match=r"30,40|outside the picture"):
        parse_point(text, (32, 64))


def test_points_given_in_pairs_and_in_rows():
    assert as_drags([[(1, 2), (3, 4)], (1, 2, 3, 4)]) == [(1, 2, 3, 4)] * 2


def test_marked_pictures_show_points_and_what_stays():
    mask = torch.zeros(8, 8)
    mask[:, 4:] = 1
    shown = marked(torch.ones(3, 8, 8), torch.tensor([[1.0, 1.0]]), torch.tensor([[6.0, 6.0]]), mask)
    levels = ((shown + 1) * 127.5).round().int()
    assert shown.shape == (3, 256, 256)
    assert levels[:, 47, 47].tolist() == list(HANDLE) and levels[:, 207, 207].tolist() == list(GOAL)
    assert levels[0, 200, 20] < 160 and levels[0, 20, 200] == 255


def test_generators_of_other_shapes():
    generator = make_tiny_generator(3, c_dim=3, channels=(6, 4), z_dim=8, mapping_layers=2, const_size=(4, 3))
    inputs = GeneratorInputs(generator.broadcast(generator.w_avg[None]))
    *_, last = drag(generator, inputs, [(1, 1, 4, 6)], torch.ones(8, 6), steps=1)
    assert generator.synthesis(last.inputs).shape == (1, 3, 8, 6)
