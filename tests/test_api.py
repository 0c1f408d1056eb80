"""`latentopt.invert` and the names of the package: what it takes, what it refuses, what is left when an image fails."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator
from torch import Tensor

import latentopt
from latentopt.errors import InversionFailed, LatentoptError, UsageError
from latentopt.files.outputs import locked
from latentopt.initializers.simple import Mean
from latentopt.inverting import events
from latentopt.inverting.events import Failed, Finished, Progressed
from latentopt.pictures.images import from_levels, save_png
from latentopt.recipe.recipe import Recipe
from latentopt.types import GeneratorInputs

FEW = Recipe.from_table(
    {"name": "few", "stages": [{"init": "mean", "steps": 3, "lr": 0.05, "optimize": ["w+"], "terms": ["l2"]}]}
)


@pytest.fixture(scope="module")
def generator():
    """8x8 pixels, 4 rows of w [16]."""
    return make_tiny_generator(channels=(8, 6))


@pytest.fixture(scope="module")
def targets(generator) -> Tensor:
    """[3,3,8,8] on 8-bit levels, so that a file holds them exactly."""
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(9))
    images = generator.synthesis(GeneratorInputs(generator.broadcast(generator.mapping(z)))).clamp(-1, 1)
    return from_levels(((images + 1) * 127.5).round())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, targets) -> Path:
    """The current folder holds pictures/a.png, b.png and deep/c.png."""
    for name, image in zip(("a", "b", "deep/c"), targets, strict=True):
        save_png(tmp_path / "pictures" / f"{name}.png", image)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def spoiled(monkeypatch):
    """The first image of every batch starts from latents that are not numbers."""
    plain = Mean.__call__

    def call(self, target, seeds):
        inputs = plain(self, target, seeds)
        inputs.ws[0] = math.nan
        return inputs

    monkeypatch.setattr(Mean, "__call__", call)


def test_the_names_of_the_package():
    assert set(latentopt.__all__) <= set(dir(latentopt))
    assert all(getattr(latentopt, name) is not None for name in latentopt.__all__)
    assert dir(latentopt) == sorted(dir(latentopt))
    with pytest.raises(AttributeError, match="no attribute 'inverse'"):
        _ = latentopt.inverse


def test_tensors(generator, targets):
    seen = []
    results = latentopt.invert(generator, targets, FEW, names=("x", "y/z", "w"), on_event=seen.append)
    assert [result.name for result in results] == ["x", "y/z", "w"]
    torch.testing.assert_close(generator.synthesis(results[1].inputs)[0], results[1].image, rtol=0, atol=1e-5)
    assert all(torch.equal(result.target, target) for result, target in zip(results, targets, strict=True))
    assert [type(event) for event in seen] == [Progressed] * 4 + [Finished] * 3
    assert [result.name for result in latentopt.invert(generator, targets[:2], FEW)] == ["0000", "0001"]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ("pictures/b.png", ["b"]),
        (Path("pictures/b.png"), ["b"]),
        ("pictures", ["a", "b", "deep/c"]),
        (Path("pictures"), ["a", "b", "deep/c"]),
        ("pictures/*.png", ["a", "b"]),
        (["pictures/b.png", Path("pictures/a.png")], ["b", "a"]),
        (("pictures/deep", "pictures/?.png"), ["c", "a", "b"]),
    ],
    ids=str,
)
def test_files_folders_and_globs(generator, targets, images, names):
    results = latentopt.invert(generator, images, FEW)
    assert [result.name for result in results] == names
    for name, result in zip(names, results, strict=True):
        assert torch.equal(result.target, targets["abc".index(name[-1])])


def test_a_file_and_a_tensor_give_the_same(generator, targets):
    (tensor,) = latentopt.invert(generator, targets[:1], FEW, names=["x"], seed=3)
    (file,) = latentopt.invert(generator, "pictures/a.png", FEW, names=["x"], seed=3)
    assert torch.equal(tensor.inputs.ws, file.inputs.ws)
    assert file.manifest["source"]["path"] == "pictures/a.png"


@pytest.mark.parametrize("kind", [str, Path])
def test_recipes_are_names_or_files(generator, targets, folder, kind):
    (folder / "few.toml").write_text(FEW.dump())
    (file,) = latentopt.invert(generator, targets[:1], kind("few.toml"))
    (recipe,) = latentopt.invert(generator, targets[:1], FEW)
    assert torch.equal(file.inputs.ws, recipe.inputs.ws)
    with pytest.raises(UsageError, match="unknown recipe"):
        latentopt.invert(generator, targets, kind("nothing"))


def test_masks(generator, targets):
    """The left half does not count: it may hold anything."""
    mask = torch.ones(3, 1, 8, 8)
    mask[..., :4] = 0
    changed = torch.where(mask == 0, 0.9, targets)
    results = [latentopt.invert(generator, images, FEW, mask=mask) for images in (targets, changed)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.inputs.ws, other.inputs.ws, rtol=0, atol=1e-4)


ONES = torch.ones(3, 1, 8, 8)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (lambda t: t[..., :4], {}, r"images are \[3, 3, 8, 4\]; this generator takes \[B, 3, 8, 8\]"),
        (lambda t: t[:, :1], {}, r"images are \[3, 1, 8, 8\]"),
        (lambda t: torch.cat([t, t[:, :1]], 1), {}, r"images are \[3, 4, 8, 8\]"),
        (lambda t: t[0], {}, r"images are \[3, 8, 8\]"),
        (lambda t: t, {"names": ("a", "a", "b")}, "same name"),
        (lambda t: t, {"names": ("a", "b")}, "2 names for 3 images"),
        (lambda t: t, {"mask": ONES[:2]}, r"mask is \[2, 1, 8, 8\]; these images take \[3, 1, 8, 8\]"),
        (lambda t: t, {"mask": ONES[:, 0]}, "mask is"),
        (lambda t: t, {"mask": ONES.expand(-1, 3, -1, -1)}, "mask is"),
        (lambda t: "pictures", {"mask": ONES}, "mask= goes with images given as a tensor"),
        (lambda t: "pictures", {"names": ("a", "b")}, "2 names for 3 pictures"),
        (lambda t: ["pictures"], {"names": ("a", "b", "a")}, "same name"),
        (lambda t: "nowhere", {}, "nowhere: no such file; give a picture or a folder"),
        (lambda t: "pictures/*.jpg", {}, "no images found"),
        (lambda t: t, {"out": "pictures/a.png"}, "the output folder is a file"),
    ],
)
def test_what_cannot_be_meant_is_refused(generator, targets, images, options, words, monkeypatch):
    monkeypatch.setattr(Mean, "__call__", None)  # before any work
    with pytest.raises(UsageError, match=words):
        latentopt.invert(generator, images(targets), FEW, **options)


@pytest.mark.parametrize("broken", ["a", "b", "deep/c"])
def test_a_picture_that_cannot_be_read_leaves_the_others_their_turn(generator, folder, broken):
    (folder / "pictures" / f"{broken}.png").write_text("not a picture")
    seen = []
    with pytest.raises(InversionFailed, match=rf"1 of 3 images failed: pictures/{broken}\.png") as caught:
        latentopt.invert(generator, "pictures", FEW, out="out", on_event=seen.append)
    others = {"a", "b", "deep/c"} - {broken}
    assert set(caught.value.results) == others
    assert all(result.name == name for name, result in caught.value.results.items())
    assert [event.name for event in seen if isinstance(event, Failed)] == [broken]
    assert {str(path.parent.relative_to("out")) for path in Path("out").rglob("run.json")} == others
    assert (caught.value.exit_code, isinstance(caught.value, LatentoptError)) == (3, True)


def test_an_image_that_cannot_be_inverted_leaves_the_others_their_turn(generator, targets, spoiled):
    with pytest.raises(InversionFailed, match="1 of 3 images failed: x: the loss is not finite at the start") as caught:
        latentopt.invert(generator, targets, FEW, names=("x", "y", "z"))
    assert set(caught.value.results) == {"y", "z"}


def test_when_all_fail(generator, targets, spoiled):
    with pytest.raises(InversionFailed, match="3 of 3 images failed") as caught:
        latentopt.invert(generator, targets, FEW.override(["stages.0.batch=1"]))
    assert caught.value.results == {}


def test_out_is_locked_and_goes_on(generator, targets):
    Path("out").mkdir()
    with locked(Path("out")), pytest.raises(UsageError, match="another latentopt is at work there"):
        latentopt.invert(generator, targets, FEW, out="out")
    assert not list(Path("out").rglob("run.json"))

    def meanwhile(event):
        with pytest.raises(UsageError, match="another latentopt"), locked(Path("out")):
            pass

    first = latentopt.invert(generator, targets, FEW, out="out", on_event=meanwhile)
    with locked(Path("out")):
        pass  # free again
    seen = []
    second = latentopt.invert(generator, targets, FEW, out=Path("out"), on_event=seen.append)
    assert [event.again for event in seen] == [True] * 3
    assert all(torch.equal(a.inputs.ws, b.inputs.ws) for a, b in zip(first, second, strict=True))
    assert torch.equal(latentopt.Inversion.load(Path("out/0001")).inputs.ws, first[1].inputs.ws)


def test_a_look_is_told_what_is_done_by_the_name_of_the_result(generator, folder):
    seen = []

    def look(source, target, done):
        seen.append((source.key, done))
        return target

    for _ in range(2):
        latentopt.invert(generator, ["pictures/a.png"], FEW, names=["anna"], out="out", look=look)
    assert seen == [("a", False), ("a", True)]


@pytest.mark.parametrize("options", [{"share": 0.5}, {"bootstrap_network": "portraits"}])
def test_options_of_an_encoder_that_would_have_no_effect(generator, targets, options):
    with pytest.raises(UsageError, match=r"needs --(mix|bootstrap)"):
        latentopt.encode(generator, targets, **options)


def test_results_of_two_kinds_in_one_list(generator, targets):
    from latentopt.results.earlier import find_results

    made = latentopt.invert(generator, targets, FEW, out="out")
    with pytest.raises(UsageError, match="not both"):
        latentopt.tune(generator, [*find_results(Path("out")), made[0]], "weights")


def test_the_row_of_an_image_is_made_once(generator, folder, monkeypatch):
    """The summary and whoever follows the events have the same row."""
    (folder / "pictures" / "z.png").write_bytes(b"nothing")
    made, seen = [], []
    for name in ("row_of", "failed_row"):
        plain = getattr(events, name)
        monkeypatch.setattr(events, name, lambda *a, name=name, plain=plain: made.append(name) or plain(*a))

    def on_event(event):
        if not isinstance(event, Progressed):
            seen.append(event.row)

    with pytest.raises(InversionFailed):
        latentopt.invert(generator, "pictures", FEW, out="out", on_event=on_event)
    assert sorted(made) == ["failed_row", "row_of", "row_of", "row_of"]
    assert {row["name"]: row["status"] for row in seen} == {"a": "ok", "b": "ok", "deep/c": "ok", "z": "failed"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_generator_of_16_bits_is_refused_and_told_how_it_draws_in_them(targets, dtype):
    generator = make_tiny_generator(channels=(8, 6))
    latentopt.invert(generator.set_precision(dtype), targets[:1], FEW)
    with pytest.raises(UsageError, match=f"Load it in float32; generator.set_precision\\({dtype}\\)"):
        latentopt.invert(generator.to(dtype), targets[:1], FEW)
