"""Operators: every registered one, and stages whose terms compare measurements."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor

from latentopt.errors import LatentoptError, UntrustedFileError, UsageError
from latentopt.inverting.batch import Batch
from latentopt.loop.building import build_operator
from latentopt.pictures.images import save_png
from latentopt.protocols import Operator
from latentopt.recipe.entries import checked_operators
from latentopt.recipe.operators import parse_operators
from latentopt.recipe.recipe import Recipe
from latentopt.registry import INITIALIZERS, OPERATORS
from latentopt.statistics.sampling import sample_w
from latentopt.types import GeneratorInputs

STAGE = {"init": "mean", "steps": 4, "lr": 0.05, "optimize": ["w+"], "terms": ["l2", "perceptual"]}
CASES = [{"name": name} | options for name in OPERATORS for options in OPERATORS.declared(name).examples]
CHAINS = ["down:8", "down:4,jpeg:12", "gray,blur:1,down:2:bicubic", "mask:mask.png,noise:gaussian:10", "crop:16,rows:2"]
each_operator = pytest.mark.parametrize("table", [*CASES, *CHAINS], ids=str)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A current folder that holds a mask and a kernel."""
    mask = torch.ones(3, 32, 32)
    mask[:, 8:20, 10:] = -1
    save_png(tmp_path / "mask.png", mask)
    np.save(tmp_path / "kernel.npy", np.arange(15, dtype=np.float32).reshape(3, 5))
    monkeypatch.chdir(tmp_path)


def tables(entry) -> list[dict]:
    checked = checked_operators(entry, "operator")
    return [checked] if isinstance(checked, dict) else checked


def made(entry, generator) -> Operator:
    return build_operator(generator, tables(entry))


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
def test_a_measurement_is_of_each_image_by_itself_and_differentiable(table, generator, targets):
    operator = made(table, generator)
    together = operator(targets)
    assert together.isfinite().all()
    for i in range(3):
        torch.testing.assert_close(operator(targets[i : i + 1]), together[i : i + 1], rtol=1e-5, atol=1e-6)
    image = torch.rand(
        1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(operator, (image,), fast_mode=True)


@each_operator
def test_what_is_random_follows_the_seeds_alone(table, generator, targets):
    operator = made(table, generator)
    for measure in (lambda x, seeds: operator.drawn(x, seeds, 5), operator.simulate):
        together = measure(targets, (7, 8, 9))
        assert together.shape == operator(targets).shape
        torch.testing.assert_close(measure(targets[1:2], (8,)), together[1:2], rtol=1e-5, atol=1e-6)


@each_operator
def test_linear_operators_have_an_adjoint(table, generator):
    """<A x, y> = <x, A' y> and A(x + 2 z) = A x + 2 A z; the others are told apart."""
    operator = made(table, generator)
    rng = torch.Generator().manual_seed(1)
    x, z = (torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=rng) - 0.5 for _ in range(2))
    if operator.linear:
        torch.testing.assert_close(operator(x + 2 * z), operator(x) + 2 * operator(z))
        y = torch.randn(operator(x).shape, dtype=torch.float64, generator=rng)
        probe = z.clone().requires_grad_()
        (adjoint,) = torch.autograd.grad((operator(probe) * y).sum(), probe)
        torch.testing.assert_close((operator(x) * y).sum(), (x * adjoint).sum())
    else:
        assert not torch.allclose(operator(4 * x), 4 * operator(x), atol=1e-3)


@pytest.mark.parametrize("name", ["rows", "columns"])
def test_fourier_planes_are_measured_by_self_adjoint_projections(name, generator, targets):
    operator = made(f"{name}:4", generator)
    once = operator(targets.double())
    torch.testing.assert_close(operator(once), once)
    other = operator(torch.flip(targets, (0,)).double())
    torch.testing.assert_close((once * targets.flip(0).double()).sum(), (targets.double() * other).sum())
    assert 0.2 < (once.square().sum() / targets.square().sum()) < 1


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (21, 38)])
def test_the_differentiable_codec_is_near_the_true_one(quality, channels, size):
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    image = torch.stack([(3 * x * (i + 1)).sin() * y for i in range(channels)])[None] * 0.8
    source = SimpleNamespace(resolution=size, img_channels=channels, device=torch.device("cpu"))
    operator = OPERATORS.create("jpeg", source, quality=quality)
    soft, true = operator(image), operator.simulate(image, (0,))
    assert true.shape == soft.shape == image.shape
    off = (soft - true).abs().mean() * 127.5
    assert off < 4, f"{off:.2f} levels"
    assert off < 0.5 * (true - image).abs().mean() * 127.5 + 1.5
    if channels == 4:
        assert torch.equal(soft[:, 3], image[:, 3])


def test_noise_has_the_variance_that_was_asked_for(generator):
    image = torch.zeros(2, 3, 32, 32)
    for text, std in (("noise:gaussian:51", 51 / 127.5), ("noise:poisson:20", 2 * (0.5 / 20) ** 0.5)):
        operator = made(text, generator)
        for noisy in (operator.drawn(image, (0, 1), 3), operator.simulate(image, (0, 1))):
            assert noisy.std().item() == pytest.approx(std, rel=0.05)
            assert abs(noisy.mean().item()) < 0.03
        assert not torch.equal(operator.drawn(image, (0, 1), 3), operator.drawn(image, (0, 1), 4))
    assert torch.equal(operator(image), image)


def test_blur_and_its_kernel_by_hand(generator):
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16, 16] = 1
    seen = made("blur:kernel.npy", generator)(image)[0, 0, 15:18, 14:19]
    torch.testing.assert_close(seen, torch.arange(15.0).reshape(3, 5) / 105)  # the kernel is the picture of a point
    gaussian = made("blur:1.5", generator)(image)[0, 0]
    assert gaussian.sum().item() == pytest.approx(1, abs=1e-5)
    assert gaussian[16, 17].item() / gaussian[16, 16].item() == pytest.approx(np.exp(-1 / 4.5), rel=1e-4)


@each_operator
def test_a_stage_with_an_operator_lowers_the_distance_of_the_measurements(table, generator, targets):
    if any(part["name"] == "noise" for part in tables(table)):
        pytest.skip("its losses are noisy")
    batch = finished(generator, recipe(operator=table, terms=["l2"]), targets)
    operator = made(table, generator)
    for i, history in enumerate(batch.history):
        assert min(entry["loss"] for entry in history) < history[0]["loss"]
        measured = operator(generator.synthesis(batch.result.index([i]))) - operator(targets[i : i + 1])
        assert batch.best_parts(i)["l2"] == pytest.approx(measured.square().mean().item(), rel=1e-3)


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
    assert 'operator = { name = "down", factor = 4, method = "area" }' in again.dump()
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


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("down:8,jpeg:12", [{"name": "down", "factor": 8}, {"name": "jpeg", "quality": 12}]),
        ("down:4:bicubic", [{"name": "down", "factor": 4, "method": "bicubic"}]),
        ("down:method=bicubic:factor=4", [{"name": "down", "method": "bicubic", "factor": 4}]),
        ("blur:2", [{"name": "blur", "sigma": 2}]),
        ("blur:kernel.npy", [{"name": "blur", "file": "kernel.npy"}]),
        ("noise:15", [{"name": "noise", "amount": 15}]),
        ("noise:poisson:30", [{"name": "noise", "kind": "poisson", "amount": 30}]),
        ("gray", [{"name": "gray"}]),
        ("torch:tanh, down", [{"name": "call", "function": "torch:tanh"}, {"name": "down"}]),
        ("call:torch.nn.functional:relu", [{"name": "call", "function": "torch.nn.functional:relu"}]),
        ("columns:every=2", [{"name": "columns", "every": 2}]),
    ],
)
def test_operators_as_people_write_them(text, parts):
    assert parse_operators(text) == parts
    assert [{key: part[key] for key in given} for part, given in zip(tables(text), parts, strict=True)] == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dwn:8", "unknown operator 'dwn'; did you mean 'down'"),
        ("dwn:tanh", "a function of your own is written package.module:function"),
        ("down:8,", "a name is missing"),
        ("", "a name is missing"),
        ("down:fast", "no option is left for 'fast'|method 'fast'"),
        ("down:2:area:3", "no option is left for 3"),
        ("gray:2", "no option is left for 2; options: none"),
        ("jpeg:0", "quality is a number from 1 to 100"),
        ("jpeg:high", "no option is left for 'high'"),
        ("noise:salt", "'salt' is not one of gaussian, poisson"),
        ("noise:-3", "above 0"),
        ("noise:poisson:0", "above 0"),
        ("blur:0", "sigma is a number"),
        ("blur:2:kernel.npy", "not both"),
        ("blur:nowhere.png", "nowhere.png"),
        ("mask:nowhere.png", "nowhere.png"),
        ("mask:wide.png", "another aspect than images of 32x32"),
        ("mask:black.png", "black everywhere"),
        ("mask:levels-0-and-1.png", "white counts, so multiply it"),
        ("mask:levels.npy", r"values lie in \[0,1\]"),
        ("mask:nan.npy", r"values lie in \[0,1\]"),
        ("torch.fft:fft2", "complex64 numbers; wanted are real ones"),
        ("crop:33", "do not lie within a 32x32 image"),
        ("crop:8:top=30", "do not lie within a 32x32 image"),
        ("crop:0", "do not lie within"),
        ("crop", "needs height"),
        ("rows:0", "every must be at least 1"),
        ("columns:2:1.5", "share of the frequencies"),
        ("down:8,down:8", "does not divide both sides of a 4x4 image"),
        ("no.such:thing", "cannot be imported"),
        ("torch:no_such_thing", "cannot be imported"),
        ("torch:argmax", "wanted is a tensor with a row for each"),
        ("torch:inverse", "fails on images"),
        ("torch:flatten", "wanted is a tensor with a row for each"),
        ([], "at least one operator"),
        ([3], "must be the name of a operator"),
    ],
)
def test_operators_that_cannot_be_meant_are_refused_in_words(text, words, generator):
    save_png("wide.png", torch.ones(3, 16, 48))
    save_png("black.png", -torch.ones(3, 32, 32))
    save_png("levels-0-and-1.png", (torch.arange(32) > 9).float().expand(3, 32, 32) / 127.5 - 1)
    np.save("levels.npy", np.full((32, 32), 255.0))
    np.save("nan.npy", np.full((32, 32), np.nan))
    with pytest.raises(LatentoptError, match=words):
        made(text, generator)


def test_what_makes_no_images_is_the_last(generator):
    operator = made("test_operators:flattened", generator)
    assert operator(torch.zeros(2, 3, 32, 32)).shape == (2, 3 * 32 * 32)
    with pytest.raises(UsageError, match="no operator can follow it"):
        made("test_operators:flattened,down:2", generator)


def flattened(image: Tensor) -> Tensor:
    return image.flatten(1)


def test_a_recipe_from_a_file_runs_no_code(tmp_path):
    asked = recipe(operator="torch:tanh")
    assert asked.stages[0].operator == {"name": "call", "function": "torch:tanh"}
    (tmp_path / "own.toml").write_text(asked.dump())
    with pytest.raises(UntrustedFileError, match="names code of its own, torch:tanh"):
        Recipe.load(str(tmp_path / "own.toml"))
    assert Recipe.parse(asked.dump(), runs=True) == asked


def test_several_operators_come_back_from_a_file():
    asked = recipe(operator="down:4,jpeg:12")
    assert Recipe.parse(asked.dump()) == asked
    assert asked.digest == recipe(operator=["down:4", {"name": "jpeg", "quality": 12}]).digest
    assert asked.digest != recipe(operator="jpeg:12,down:4").digest
    assert recipe(operator=["down:4"]).digest == recipe(operator={"name": "down", "factor": 4}).digest


def test_masks_of_the_images_are_an_operator(generator, targets):
    """With mask=, what it hides has no part in the loss; alone, and before or in a chain."""
    mask = torch.ones(3, 1, 32, 32)
    mask[0, :, :16] = 0
    mask[1, :, :, 8:] = 0.5
    spoiled = torch.where(mask == 0, torch.randn_like(targets), targets)
    for operator in (None, "down:2", "mask", "mask,down:2"):
        results = []
        for images in (targets, spoiled):
            batch = Batch(generator, recipe(operator=operator, terms=["l2"]), images, tuple("abc"), (0, 1, 2), mask)
            for _ in batch.steps():
                pass
            results.append(batch.result.ws)
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
        alone = Batch(generator, recipe(operator=operator, terms=["l2"]), targets[1:2], ("b",), (1,), mask[1:2])
        for _ in alone.steps():
            pass
        torch.testing.assert_close(alone.result.ws, results[0][1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", ["mask:soft.png", "mask:large.png", "mask", "down:2,mask"])
def test_what_is_measured_through_a_soft_mask_is_not_masked_again(entry, generator, targets):
    """As it is measured, it is what the true picture would make."""
    soft = torch.linspace(-1, 1, 32).expand(3, 32, 32)
    save_png("soft.png", soft)
    coloured = torch.ones(3, 32, 32)
    coloured[0, 0, 0] = 0
    save_png("coloured.png", coloured)  # its white need not come to exactly 1
    made("mask:coloured.png", generator)
    save_png("large.png", (torch.arange(100) > 40).float().expand(3, 100, 100) * 2 - 1)  # its edge is between pixels
    operator = build_operator(generator, tables(entry), (soft[None, :1].expand(3, 1, 32, 32) + 1) / 2)
    torch.testing.assert_close(operator.counted(operator(targets)), operator(targets))
    spoiled = torch.where(operator(torch.ones_like(targets)) == 0, 7.0, operator(targets))
    torch.testing.assert_close(operator.counted(spoiled), operator(targets))


@pytest.mark.parametrize(
    ("entry", "size"), [("crop:8:12:4:20", (8, 12)), ("crop:8,down:2", (4, 4)), ("down:2", (16, 16))]
)
def test_parts_are_shown_where_they_are_in_the_image(entry, size, generator):
    operator = made(entry, generator)
    image = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    measured = operator(image)
    assert tuple(measured.shape[2:]) == size
    shown = operator.shown(measured)
    if "crop" not in entry:
        assert shown is measured
    else:
        torch.testing.assert_close(operator(shown), measured, atol=0.05, rtol=0)
        assert shown.shape == image.shape


@pytest.mark.parametrize("optimizer", ["lbfgs"])
def test_noise_and_a_line_search_exclude_one_another(optimizer):
    with pytest.raises(UsageError, match="the operator noise changes them from step to step"):
        recipe(operator="down:2,noise", optimizer=optimizer)


def test_the_best_sample_is_that_with_the_nearest_measurement(generator, targets):
    """Of what is hidden or lost nothing is compared."""
    mask = torch.ones(3, 1, 32, 32)
    mask[..., :24, :] = 0
    start = INITIALIZERS.create("best-of", generator, n=12, batch=5)
    for entry in ("down:8", "mask", "gray,crop:16"):
        operator = build_operator(generator, tables(entry), mask if entry == "mask" else None)
        measured = operator(targets)
        found = start.of_measurement(measured, operator, targets, (0, 1, 2)).ws
        for row in range(3):
            one = operator.index(torch.tensor([row]))
            w = sample_w(generator, row, 12)
            seen = torch.cat([one(x[None]) for x in generator.synthesis(GeneratorInputs(generator.broadcast(w)))])
            nearest = (seen - measured[row]).square().flatten(1).mean(dim=1).argmin()
            assert torch.equal(found[row, 0], w[nearest])


@pytest.mark.parametrize("entry", ["down:2", "mask", "gray,crop:16", "down:2,blur:0.5", "rows:0.5"])
def test_a_linear_estimate_of_a_measurement_is_nearer_to_it_than_the_mean(entry, generator):
    """Each picture is measured by its own mask. The estimate of one alone is that beside companions."""
    w = sample_w(generator, 5, 3)
    images = generator.synthesis(GeneratorInputs(generator.broadcast(w)))
    mask = torch.ones(3, 1, 32, 32)
    mask[0, :, :16], mask[1, :, 16:] = 0, 0
    operator = build_operator(generator, tables(entry), mask if entry == "mask" else None)
    measured = operator(images)
    start = INITIALIZERS.create("lmmse", generator, n=60, batch=25)
    found = start.of_measurement(measured, operator, images, (0, 1, 2))
    off = [
        (operator(generator.synthesis(inputs)) - measured).square().flatten(1).mean(dim=1)
        for inputs in (found, GeneratorInputs(generator.broadcast(generator.w_avg.expand(3, -1))))
    ]
    assert (off[0] < 0.5 * off[1]).all()
    row = torch.tensor([1])
    alone = start.of_measurement(measured[1:2], operator.index(row), images[1:2], (8,))
    torch.testing.assert_close(alone.ws, found.ws[1:2], rtol=1e-3, atol=1e-3)
