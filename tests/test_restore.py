"""Restoration: by operator, generator and recipe; what is written, and what is refused in words."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from conftest import make_tiny_generator, make_tiny_stylegan3, photo
from PIL import Image
from torch import Tensor

import latentopt as package
from latentopt.checkpoints.networks import save_generator
from latentopt.errors import InversionFailed, MissingWeightsError, UsageError
from latentopt.evaluation.framework import evaluate
from latentopt.inverting.items import tensor_items
from latentopt.operators.call import Function
from latentopt.pictures.images import read_png, save_png
from latentopt.recipe.recipe import Recipe
from latentopt.restoring.measuring import Measuring, stand_in
from latentopt.restoring.work import further_solutions
from latentopt.types import GeneratorInputs

OPERATORS = ["down:4", "gray,down:2", "jpeg:20", "noise:gaussian:20", "blur:1,noise:poisson:60", "crop:8", "rows:2"]
STYLEGAN3: dict[str, dict] = {"StyleGAN3": {}, "grey StyleGAN3": {"img_channels": 1}}
PLAIN = [{"name": "l2", "weight": 1.0}]


def recipe(steps: int = 6, terms=PLAIN) -> Recipe:
    """robust in few steps, by pixels alone unless other terms are asked for."""
    return Recipe.load("robust").in_every_stage(steps=steps, terms=terms)


def generator_of(kind: str):
    """Small, grey, transparent, and not square; with random weights and a 256-pixel image; of the other family."""
    if kind in STYLEGAN3:
        return portraying(make_tiny_stylegan3(**STYLEGAN3[kind]))
    changes = {
        "colour": {},
        "grey": {"img_channels": 1},
        "transparent": {"img_channels": 4},
        "oblong": {"const_size": (4, 2)},
        "256 pixels": {"channels": (6, 6, 4, 4, 4, 3, 3)},
    }[kind]
    return portraying(make_tiny_generator(**({"channels": (8, 6, 4)} | changes)))


def portraying(generator):
    generator.card = {"data": "portraits"}  # so that perceptual terms take the bundled network
    return generator


def truths(generator, n: int = 2) -> Tensor:
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(9))
    return generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z)))).clamp(-1, 1)


CASES = [
    *(("colour", operator) for operator in OPERATORS),
    ("grey", "down:4,jpeg:30"),
    ("grey", "gray"),
    ("transparent", "gray,down:2"),
    ("transparent", "jpeg:20"),
    ("oblong", "crop:8:6"),
    ("oblong", "down:2,rows:2"),
    ("256 pixels", "down:16,jpeg:60"),
    ("StyleGAN3", "down:4"),
    ("StyleGAN3", "blur:1,noise:gaussian:5"),
    ("grey StyleGAN3", "columns:2"),
]


@pytest.mark.parametrize(("kind", "operator"), CASES)
def test_measurements_are_approached(kind, operator):
    """On every kind of generator; what is measured of the result comes nearer to the measurement."""
    generator = generator_of(kind)
    found = package.restore(generator, truths(generator), operator, recipe(5), simulate=True)
    assert [one.name for one in found] == ["0000", "0001"]
    for one in found:
        history = one.solutions[0].history
        assert min(entry["loss"] for entry in history if entry["stage"] == 2) < history[0]["loss"]
        assert one.image.shape == (generator.img_channels, *generator.resolution)
        assert one.remeasured.shape == one.measured.shape
        figures = one.solutions[0].manifest["metrics"]
        assert {"mse", "psnr", "true_mse", "true_psnr", "true_perceptual"} <= figures.keys()
        mse = (one.image.clamp(-1, 1) - one.truth).square().mean().item() / 4
        assert figures["true_mse"] == pytest.approx(mse, rel=0.1, abs=1e-4)


@pytest.mark.parametrize("name", ["robust", "brgm", "ilo", "bdinvert", "pulse", "pnorm-map"])
def test_every_recipe_that_is_made_for_it_restores(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latentopt.statistics.pnorm_measure.SAMPLES", 500)
    generator = make_tiny_generator()
    generator.card = {"data": "portraits"}
    short = Recipe.load(name).in_every_stage(steps=2)
    if name == "pulse":
        short = short.override(["stages.0.init.n=4"])
    (found,) = package.restore(generator, truths(generator, 1), "down:2,jpeg:50", short, simulate=True)
    assert found.image.isfinite().all()
    assert len(found.solutions[0].history) == 3 * len(short.stages)


@pytest.mark.parametrize("operator", [None, "down:2", "mask,down:2", "own"])
def test_masks_of_tensors(operator):
    """What they hide has no part in it, in measurements and in pictures that are measured first; for functions too."""
    generator = generator_of("colour")
    mask = torch.ones(2, 1, 16, 16)
    mask[0, :, :8] = 0
    given, truth = (lambda x: x.flip(3)) if operator == "own" else operator, truths(generator)
    spoiled = torch.where(mask == 0, torch.rand_like(truth), truth)
    first, second = (
        package.restore(generator, images, given, recipe(2), mask=mask, simulate=True) for images in (truth, spoiled)
    )
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.image, other.image)
        torch.testing.assert_close(one.measured, other.measured)
    measured = torch.stack([one.measured for one in first])
    again = package.restore(generator, measured, given, recipe(2), mask=mask)
    torch.testing.assert_close(again[1].image, first[1].image)
    same = package.restore(generator, measured, given, recipe(2), mask=mask[1:])
    torch.testing.assert_close(same[1].image, again[1].image)
    assert same[0].solutions[0].manifest["source"]["sha256"] != again[0].solutions[0].manifest["source"]["sha256"]


def test_a_measurement_is_restored_alone_as_in_company():
    generator = generator_of("colour")
    measured = torch.nn.functional.avg_pool2d(truths(generator, 3), 4)
    names = ["a", "b", "c"]
    together = package.restore(generator, measured, "down:4", recipe(), names=names)
    alone = package.restore(generator, measured[1:2], "down:4", recipe(), names=["b"])
    torch.testing.assert_close(alone[0].image, together[1].image, rtol=1e-3, atol=1e-3)
    assert together[0].truth is None
    torch.testing.assert_close(together[0].measured, measured[0])


def test_functions_and_measurements_that_are_no_pictures():
    generator = generator_of("colour")
    matrix = torch.randn(40, 3 * 16 * 16, generator=torch.Generator().manual_seed(0)) / 28

    def compressed(image: Tensor) -> Tensor:
        return image.flatten(1) @ matrix.T

    (found,) = package.restore(generator, compressed(truths(generator, 1)), compressed, recipe(15))
    history = found.solutions[0].history
    assert found.measured.shape == (40,)
    assert history[-1]["best"] < 0.9 * history[0]["loss"]
    assert (
        Measuring(generator, (), Function(compressed)).digest()
        == Measuring(generator, (), Function(compressed)).digest()
    )
    other = Measuring(generator, (), Function(lambda image: compressed(image) * 2))
    assert other.digest() != Measuring(generator, (), Function(compressed)).digest()
    with pytest.raises(UsageError, match=r"compares pictures by pyramid, .*compressed measures is none"):
        package.restore(generator, compressed(truths(generator, 1)), compressed, "robust")
    with pytest.raises(UsageError, match=r"measurements by .*compressed are \[B, 40\]"):
        package.restore(generator, truths(generator, 1), compressed, recipe())


def test_several_solutions_start_apart(tmp_path):
    """The first is what is found without the others; spread.csv and spread.png tell how far they lie apart."""
    generator = generator_of("colour")
    y = torch.nn.functional.avg_pool2d(truths(generator), 8)
    plain = package.restore(generator, y, "down:8", recipe(2))
    several = package.restore(generator, y, "down:8", recipe(2), solutions=3, out=tmp_path / "out")
    for one, more in zip(plain, several, strict=True):
        torch.testing.assert_close(one.image, more.image, rtol=1e-4, atol=1e-4)
        assert one.spread is None
        assert len(more.solutions) == 3
        pictures = torch.stack([solution.image.clamp(-1, 1) for solution in more.solutions])
        torch.testing.assert_close(more.spread, pictures.std(dim=0))
        assert more.spread.mean() > 0.01
        assert (tmp_path / "out" / more.name / "spread.png").is_file()
    with (tmp_path / "out" / "spread.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["name"], row["solutions"]) for row in rows] == [("0000", "3"), ("0001", "3")]
    again = package.restore(generator, y, "down:8", recipe(2), solutions=3, out=tmp_path / "out")
    for one, more in zip(again, several, strict=True):
        torch.testing.assert_close(one.measured, more.measured)
        assert len(one.solutions) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"operator": None}, "name an operator, such as down:8"),
        ({"operator": 3}, "an operator is text, a table, or a function"),
        ({"operator": "down:3"}, "does not divide both sides"),
        ({"operator": "dwn:3"}, "unknown operator 'dwn'"),
        ({"images": torch.zeros(1, 3, 5, 5)}, r"measurements by down:4:area are \[B, 3, 4, 4\]"),
        ({"images": torch.full((1, 3, 4, 4), torch.nan)}, "not finite"),
        ({"images": torch.zeros(1, 3, 5, 5), "simulate": True}, r"images are \[B, 3, 16, 16\]"),
        ({"names": ["a", "b"]}, "2 names for 1 images"),
        ({"names": ["../a"]}, "a"),
        ({"mask": torch.ones(1, 1, 4, 4)}, r"mask is \[1, 1, 4, 4\]; these images take \[1, 1, 16, 16\]"),
        ({"mask": torch.zeros(1, 1, 16, 16)}, "zero everywhere"),
        ({"mask": torch.ones(1, 1, 16, 16), "images": "photos"}, "mask= goes with measurements given as a tensor"),
        ({"recipe": Recipe.load("dhr").override(["stages.0.init=mean"])}, "take another recipe for this operator"),
        ({"images": torch.zeros(1, 3, 4, 4, dtype=torch.complex64)}, "not complex64 .*view_as_real"),
        ({"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, "real numbers in .* not uint8"),
        ({"images": np.zeros((1, 3, 4, 4))}, "a tensor .* or paths of pictures, not ndarray"),
        ({"solutions": 1.5}, "solutions is a whole number"),
        ({"solutions": 0}, "solutions is a whole number, at least 1"),
        ({"recipe": recipe().override(["stages.0.init=previous"])}, "goes on from an earlier result"),
        ({"recipe": "nothing"}, "unknown recipe 'nothing'"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_words(change, words):
    given = {"images": torch.zeros(1, 3, 4, 4), "operator": "down:4", "recipe": recipe()} | change
    with pytest.raises(UsageError, match=words):
        package.restore(generator_of("colour"), **given)


def test_a_restoration_is_not_tuned_or_held_against_what_was_measured(tmp_path):
    generator = generator_of("colour")
    found = package.restore(generator, truths(generator), "blur:1", recipe(1), simulate=True, out=tmp_path)
    solutions = [one.solutions[0] for one in found]
    for refused in (
        lambda: package.tune(generator, solutions, "pti"),
        lambda: package.tune(generator, tmp_path, "pti"),
        lambda: evaluate(solutions, generator, parts=["reconstruction"]),
    ):
        with pytest.raises(UsageError, match="0000: this was restored, and its true picture is not known"):
            refused()


def test_further_solutions_look_for_the_placement_by_other_samples():
    generator = generator_of("StyleGAN3")
    placing = Recipe.load("sg3").in_every_stage(steps=1)
    placing = placing.changed({("stages", 0, "init"): placing.stages[0].init | {"samples": 4, "runs": 1, "steps": 1}})
    items = tensor_items(truths(generator), ["a", "b"])
    for found, groups in (
        (placing, [["a-solution-2", "b-solution-2"], ["a-solution-3", "b-solution-3"]]),
        (recipe(), None),
    ):
        further = further_solutions(found, items, 3)
        assert [[item.name for item in group] for _, group in further] == (
            groups or [["a-solution-2", "a-solution-3", "b-solution-2", "b-solution-3"]]
        )
        begun = [one.stages[0].init for one, _ in further]
        assert [init["name"] for init in begun] == (["placement"] * 2 if groups else ["sample"])
        assert not groups or len({init["seed"] for init in [placing.stages[0].init, *begun]}) == 3
    assert not further_solutions(recipe(), items, 1)
    several = package.restore(generator, truths(generator, 1), "down:2", placing, simulate=True, solutions=2)[0]
    moves = [solution.inputs.transform for solution in several.solutions]
    assert all(move is not None for move in moves)
    assert several.spread.mean() > 0


def test_true_pictures_are_compared_without_weights_as_far_as_it_goes(monkeypatch):
    def missing(*_):
        raise MissingWeightsError("not there", "vgg")

    monkeypatch.setattr("latentopt.restoring.restoration.PerceptualFeatures", missing)
    generator = generator_of("colour")
    found = package.restore(generator, truths(generator), "blur:1", recipe(1), simulate=True)
    for one in found:
        figures = one.solutions[0].manifest["metrics"]
        assert "true_psnr" in figures
        assert "true_perceptual" not in figures


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (40, 20)])
def test_a_measurement_is_shown_at_the_generators_size(channels, size):
    for kind in ("colour", "grey", "transparent"):
        generator = generator_of(kind)
        shown = stand_in(torch.full((channels, *size), 0.5), generator)
        assert shown.shape == (generator.img_channels, 16, 16)
        torch.testing.assert_close(shown[:3], torch.full_like(shown[:3], 0.5))


# the command line


@pytest.fixture
def work(tmp_path, monkeypatch):
    generator = generator_of("colour")
    save_generator(generator, tmp_path / "net.safetensors")
    for i, name in enumerate("ab"):
        photo(tmp_path / "photos" / f"{name}.png", i)
        (tmp_path / "small").mkdir(exist_ok=True)
        small = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)) * 2 - 1
        save_png(tmp_path / "small" / f"{name}.png", small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHORT = ("--network", "net.safetensors", "--steps", "2", "-q", "--terms", "l2=1")


def test_pictures_of_the_right_size(work, latentopt):
    code, _, err = latentopt("restore", "small", "--operator", "down:2", *SHORT)
    assert code == 0, err
    for name in "ab":
        folder = work / "out" / "restored" / name
        assert {"proj.png", "measurement.png", "remeasured.png", "residual.png", "restoration.png"} <= {
            path.name for path in folder.iterdir()
        }
        assert torch.equal(read_png(folder / "measurement.png"), read_png(work / "small" / f"{name}.png"))
        assert read_png(folder / "proj.png").shape == (3, 16, 16)
        run = json.loads((folder / "run.json").read_text())
        assert run["metrics"]["psnr"] > 0
        assert "true_psnr" not in run["metrics"]
        assert '{ name = "down", factor = 2' in (folder / "recipe.toml").read_text()
    before = (work / "out" / "restored" / "a" / "run.json").stat().st_mtime_ns
    assert latentopt("restore", "small", "--operator", "down:2", *SHORT)[0] == 0
    assert (work / "out" / "restored" / "a" / "run.json").stat().st_mtime_ns == before, "not done again"


def test_simulation_and_solutions(work, latentopt):
    arguments = ("photos", "--operator", "down:2,jpeg:30", "--simulate", "--solutions", "2")
    code, out, err = latentopt("restore", *arguments, *SHORT)
    assert code == 0, err
    assert "psnr to truth" in out
    root = work / "out" / "restored"
    assert (root / "a" / "truth.png").is_file()
    assert (root / "a-solution-2" / "proj.png").is_file()
    assert (root / "spread.csv").read_text().startswith("name,solutions,spread\n")
    same = [read_png(root / name / "measurement.png") for name in ("a", "a-solution-2")]
    assert torch.equal(*same), "one measurement for all solutions"


def test_holes_are_the_transparency(work, latentopt):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    levels[..., 3] = 255
    levels[4:9, 4:9, 3] = 0
    (work / "holes").mkdir()
    Image.fromarray(levels).save(work / "holes" / "a.png")
    code, _, err = latentopt("restore", "holes", "--operator", "mask", *SHORT)
    assert code == 0, err
    measured = read_png(work / "out" / "restored" / "a" / "measurement.png")
    assert (measured[:, 4:9, 4:9].abs() < 0.01).all(), "grey where nothing was seen"
    for text, factor in (("mask,down:2", 2), ("down:2,mask", 2)):  # the mask comes with the small picture
        (work / "few").mkdir(exist_ok=True)
        Image.fromarray(levels[::factor, ::factor]).save(work / "few" / "a.png")
        assert latentopt("restore", "few", "--operator", text, *SHORT, "--outdir", f"o-{text[:4]}")[0] == 0
    save_png(work / "mask.png", torch.cat([torch.ones(3, 8, 16), -torch.ones(3, 8, 16)], dim=1))
    code, _, err = latentopt("restore", "photos", "--operator", "mask:mask.png", "--simulate", *SHORT, "--outdir", "o")
    assert code == 0, err
    assert (read_png(work / "o" / "a" / "measurement.png")[:, 8:].abs() < 0.01).all()


def test_what_is_half_transparent_keeps_its_colours(work, latentopt):
    """As a measurement it is the operator's; as a good picture, what lies beneath its transparency is the truth."""
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    levels[..., 3] = 255
    levels[:6, :, 3], levels[10:, :, 3] = 128, 0
    (work / "holes").mkdir()
    Image.fromarray(levels).save(work / "holes" / "a.png")
    true = torch.from_numpy(levels[..., :3]).movedim(2, 0) / 127.5 - 1
    seen = true * torch.from_numpy(levels[None, ..., 3]) / 255
    for more in ([], ["--simulate"]):
        code, _, err = latentopt("restore", "holes", "--operator", "mask", *SHORT, "--outdir", f"o{len(more)}", *more)
        assert code == 0, err
        measured = read_png(work / f"o{len(more)}" / "a" / "measurement.png")
        torch.testing.assert_close(measured, seen, atol=0.01, rtol=0)
    torch.testing.assert_close(read_png(work / "o1" / "a" / "truth.png"), true, atol=0.01, rtol=0)
    assert "beneath the transparency" in str(
        json.loads((work / "o1" / "a" / "run.json").read_text())["source"]["notes"]
    )


def test_pictures_of_a_few_pixels_are_measurements_and_kernels(work, latentopt):
    (work / "tiny").mkdir()
    save_png(work / "tiny" / "a.png", torch.rand(3, 2, 2) * 2 - 1)
    assert latentopt("restore", "tiny", "--operator", "down:8", *SHORT)[0] == 0
    save_png(work / "kernel.png", torch.ones(3, 1, 13))
    assert (
        latentopt("restore", "photos", "--operator", "blur:kernel.png", "--simulate", *SHORT, "--outdir", "o")[0] == 0
    )


def test_solutions_take_no_other_pictures_place(work, latentopt):
    operator = ("--operator", "blur:1", "--simulate", *SHORT)
    photo(work / "other" / "a-solution-2.png", 7)
    assert latentopt("restore", "other", *operator)[0] == 0
    root = work / "out" / "restored"
    before = (root / "a-solution-2" / "run.json").read_bytes()
    for _ in range(2):
        code, _, err = latentopt("restore", "photos", *operator, "--solutions", "2")
        assert code == 0, err
        assert (root / "a-solution-2" / "run.json").read_bytes() == before
        assert {path.name for path in root.iterdir() if path.is_dir() and path.name[0] in "ab"} == {
            "a-solution-2",
            *("a-2", "a-2-solution-2", "b", "b-solution-2"),
        }
    photo(work / "photos" / "b-solution-2.png", 8)
    assert latentopt("restore", "photos", *operator, "--solutions", "2", "--outdir", "o")[0] == 0
    assert (work / "o" / "b-2-solution-2").is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("small",), 2, "needs an operator"),
        (("small", "--operator", "dwn:2"), 2, "did you mean 'down'"),
        (("small", "--operator", "down:3"), 2, "does not divide"),
        (("small", "--operator", "down:4"), 1, "8x8 pixels (height x width); what down:4:area makes"),
        (("photos", "--operator", "down:2"), 1, "--simulate if it is a good picture"),
        (("nowhere", "--operator", "down:2"), 2, "nowhere: no such file"),
        (("small", "--operator", "down:2", "--recipe", "own.toml"), 4, "names code of its own"),
        (("small", "--operator", "down:2", "--solutions", "0"), 2, "solutions"),
        (("small", "--operator", "down:2", "--exact", "--batch", "2"), 2, "--exact works on one image"),
        (("small", "--operator", "torch:flatten"), 2, "a row for each"),
        (("small", "--operator", "test_restore:flattened"), 2, "are no pictures"),
    ],
)
def test_what_the_command_refuses(arguments, code, words, work, latentopt):
    table = Recipe.load("robust").measuring("torch:tanh").dump()
    (work / "own.toml").write_text(table)
    ended, _, err = latentopt("restore", *arguments, *SHORT)
    assert (ended, words in err) == (code, True), err
    assert not (work / "out" / "restored" / "a").exists()


def flattened(image: Tensor) -> Tensor:
    return image.flatten(1)


def test_one_picture_of_a_wrong_size_does_not_end_the_others(work, latentopt):
    photo(work / "small" / "c.png", 3)
    code, _, err = latentopt("restore", "small", "--operator", "down:2", *SHORT)
    assert code == 3
    assert "c.png" in err
    assert (work / "out" / "restored" / "b" / "proj.png").is_file()
    with pytest.raises(InversionFailed) as failed:
        package.restore(package.load_generator("net.safetensors"), "small", "down:2", recipe(1))
    assert sorted(failed.value.results) == ["a", "b"]
    assert latentopt("restore", "small", "--operator", "down:2", *SHORT, "--fit", "crop")[0] == 0


def test_the_dry_run_shows_the_operators(latentopt):
    code, out, _ = latentopt("restore", "-n", "--operator", "down:8,jpeg:12")
    assert code == 0
    assert Recipe.parse(out).stages[2].operators == [
        {"name": "down", "factor": 8, "method": "area"},
        {"name": "jpeg", "quality": 12},
    ]
