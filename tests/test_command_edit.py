"""`latentopt edit`, `mix`, `interpolate` and `directions`: what they take, what they write."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_generator
from PIL import Image

from latentopt.api import invert
from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import load_directions, save_directions
from latentopt.pictures.images import read_png
from latentopt.recipe.recipe import Recipe
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs

NETWORK = ("--network", "net/tiny.safetensors")


@pytest.fixture(scope="module")
def once(prepared, tmp_path_factory):
    """A folder with an inversion of three pictures in out/, and the directions smile, hair_length and yaw."""
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        generator = load_generator("net/tiny.safetensors")
        recipe = Recipe.load("i2s").override(["stages.0.steps=2", 'stages.0.terms=[{name="l2"}]'])
        rng = torch.Generator().manual_seed(0)
        for result in invert(generator, "photos", recipe, out="out"):  # as far apart as real inversions
            inputs = result.inputs.replace(ws=result.inputs.ws + torch.randn(1, 6, 16, generator=rng))
            image = generator.synthesis(inputs)[0].clamp(-1, 1)
            replace(result, inputs=inputs, image=image).save(folder / "out" / result.name)
        directions = [
            Direction(name, "w", torch.randn(16, generator=rng), generator.fingerprint, generator=generator.name)
            for name in ("smile", "hair_length", "yaw")
        ]
        save_directions(Path("directions/mine.safetensors"), directions)
    return folder


@pytest.fixture
def inverted(once, tmp_path, monkeypatch):
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def latents(path) -> GeneratorInputs:
    return GeneratorInputs.load(path)


def test_edits_follow_one_another(inverted, latentopt):
    """Each step of each image is written, as a picture that its latents draw again, and all are on the sheet."""
    code, out, err = latentopt("edit", "--do", "smile=+2", "--do", "hair-length=-1@0-2")
    assert code == 0, err
    assert "newest run: out (3 images)" in err and "6 pictures in out/edits/" in out
    generator = load_generator("net/tiny.safetensors")
    smile, hair, _ = load_directions("directions/mine.safetensors", generator).values()
    for name in "abc":
        folder = inverted / "out" / "edits" / name
        start = Inversion.load(inverted / "out" / name).inputs
        first, second = (latents(folder / f"{label}.safetensors") for label in FIRST_AND_SECOND)
        assert torch.allclose(first.ws, smile.edit(start, 2).ws, atol=1e-6)
        assert torch.allclose(second.ws, hair.edit(first, -1, [0, 1, 2]).ws, atol=1e-6)
        drawn = generator.synthesis(second)[0].clamp(-1, 1)
        assert (read_png(folder / f"{FIRST_AND_SECOND[1]}.png") - drawn).abs().max() < 0.01
    sheet = Image.open(inverted / "out" / "edits" / f"{FIRST_AND_SECOND[1]}.png")
    assert sheet.size == (4 + 4 * 132, 24 + 3 * 152)


FIRST_AND_SECOND = ("smile+2", "smile+2_hair-length-1@0-2")


def test_sweeps_and_films(inverted, latentopt):
    code, out, err = latentopt(
        "edit", "out/b", "--do", "smile=1", "--sweep", "yaw=-1..1:3", "--animate", "--to", "strip"
    )
    assert code == 0, err
    assert "4 pictures in strip/" in out
    names = {path.name for path in (inverted / "strip" / "b").iterdir()}
    assert {"smile+1.png", "smile+1_yaw-1.png", "smile+1_yaw+0.png", "smile+1_yaw+1.png", "smile+1_yaw.webp"} <= names
    film = Image.open(inverted / "strip" / "b" / "smile+1_yaw.webp")
    assert film.n_frames > 30 and film.size == (256, 256)
    assert (inverted / "strip" / "smile+1_yaw-sweep.png").is_file()


def test_nothing_that_is_announced_is_overwritten(inverted, latentopt):
    """Films of other rows, long sequences, and strengths that differ in their seventh digit."""
    rows = ("--sweep", "smile=-1..1:2@0-1", "--sweep", "smile=-1..1:2@4-5", "--animate")
    steps = [word for i in range(13) for word in ("--do", f"hair_length={1 + i / 1000}@0-1")]
    digits = ("--sweep", "s:b8.conv1:3=1000000..1000004:5")
    for arguments, pictures, films in ((rows, 4, 2), (steps, 13, 0), (digits, 5, 0)):
        code, out, err = latentopt("edit", "out/a", *arguments, "--to", f"to{pictures}")
        assert code == 0, err
        written = list((inverted / f"to{pictures}" / "a").iterdir())
        assert f"{pictures} pictures" in out
        for suffix, count in ((".png", pictures), (".safetensors", pictures), (".webp", films)):
            assert sum(path.suffix == suffix for path in written) == count
    assert {path.name for path in (inverted / "to4" / "a").glob("*.webp")} == {"smile@0-1.webp", "smile@4-5.webp"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--do", "smile=1", "--do", "s:b8.conv1:3=3@2"),
        ("--do", "smile=1", "--sweep", "s:b8.conv1:3=-1..1@2"),
        ("--do", "smile=1@0", "--do", "s:b8.conv1:3=3", "--layers", "2"),
        ("--do", "smile=1", "--do", "yaw=1@6"),
        ("--do", "smile=1", "--do", "yaw=1e300"),
    ],
    ids=" ".join,
)
def test_edits_that_cannot_be_are_refused_before_any_work(inverted, latentopt, arguments):
    code, _, err = latentopt("edit", "out", *arguments, "--to", "late")
    last = err.strip().splitlines()[-1].removeprefix("latentopt: ")
    assert code == 2 and last.startswith(("s:b8.conv1:3: a channel belongs", "yaw: layers [6]", "yaw+1e+300: too")), err
    assert not list((inverted / "late").rglob("*.png"))


def test_edits_go_on_from_edited_latents(inverted, latentopt):
    assert latentopt("edit", "out/a", "--do", "yaw=2")[0] == 0
    code, _, err = latentopt("edit", "out/a/edits/a/yaw+2.safetensors", "--do", "yaw=-2", "--to", "again", *NETWORK)
    assert code == 0, err
    back = latents(inverted / "again" / "yaw+2" / "yaw-2.safetensors")
    assert torch.allclose(back.ws, Inversion.load(inverted / "out" / "a").inputs.ws, atol=1e-5)


def test_tuned_results_keep_their_weights(inverted, latentopt):
    """The pictures are those of the tuned generator, and the weights lie beside the latents for what comes next."""
    code, _, err = latentopt(
        "tune",
        "--method",
        "weights",
        "--steps",
        "3",
        "--corruption",
        "0",
        "-q",
        "--set",
        'stages.0.terms=[{name="l2"}]',
    )
    assert code == 0, err
    assert latentopt("edit", "out/tuned-weights", "--do", "yaw=1")[0] == 0
    folder = inverted / "out" / "tuned-weights" / "edits" / "a"
    assert torch.equal(
        Delta.load(folder / "delta.safetensors").tensors["synthesis.b8.conv1.weight"],
        Delta.load(inverted / "out" / "tuned-weights" / "a").tensors["synthesis.b8.conv1.weight"],
    )
    generator, held = load_generator("net/tiny.safetensors"), latents(folder / "yaw+1.safetensors")
    assert held.deltas is None
    tuned = held.replace(deltas=Delta.load(folder / "delta.safetensors").deltas())
    assert (read_png(folder / "yaw+1.png") - generator.synthesis(tuned)[0].clamp(-1, 1)).abs().max() < 0.01
    assert latentopt("edit", folder / "yaw+1.safetensors", "--do", "yaw=-1", "--to", "back", *NETWORK)[0] == 0
    assert torch.allclose(
        read_png(inverted / "back" / "yaw+1" / "yaw-1.png"),
        read_png(inverted / "out" / "tuned-weights" / "a" / "proj.png"),
        atol=0.01,
    )


def test_directions_of_another_generator(inverted, latentopt):
    other = make_tiny_generator(seed=3, channels=(8, 6, 4))
    direction = Direction("age", "w", torch.randn(16), other.fingerprint, generator="other")
    save_directions(inverted / "other.safetensors", [direction])
    code, _, err = latentopt("edit", "out/a", "--do", "age=1", "--directions", "other.safetensors")
    assert code == 1 and "belongs to generator 'other'" in err and "--force" in err
    code, _, err = latentopt("edit", "out/a", "--do", "age=1", "--directions", "other.safetensors", "--force")
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--do", "smil=2"), 2, "did you mean 'smile'"),
        (("--do", "smile"), 2, "write NAME=STRENGTH"),
        (("--sweep", "yaw=2"), 2, "write NAME=FIRST..LAST"),
        (("--do", "smile=1", "--layers", "0-6"), 2, "rows 0 to 5"),
        (("--do", "smile=1@9"), 2, "rows 0 to 5"),
        (("--do", "smile=1", "--animate"), 2, "--sweep"),
        (("--do", "smile=1", "--outdir", "nowhere"), 1, "latentopt invert first"),
        (("--do", "smile=1", "--directions", "none.safetensors"), 1, "none.safetensors"),
        (("photos", "--do", "smile=1"), 1, "no finished inversion"),
        (("--do", "smile=1", "--to", "photos/a.png"), 2, "is a file"),
    ],
)
def test_edit_refuses(inverted, latentopt, arguments, code, message):
    found, _, err = latentopt("edit", *arguments)
    assert found == code and message in err


def test_latents_of_another_generator(inverted, latentopt):
    save_generator(make_tiny_generator(seed=3, channels=(8, 6, 4)), inverted / "net" / "other.safetensors")
    assert latentopt("edit", "out/a", "--do", "yaw=2")[0] == 0
    for source in ("out/a", "out/a/edits/a/yaw+2.safetensors"):
        code, _, err = latentopt("edit", source, "--do", "yaw=1", "--network", "net/other.safetensors")
        assert code == 1 and "generator" in err


def test_mix(inverted, latentopt):
    code, out, err = latentopt("mix", "--split", "2")
    assert code == 0, err
    assert "6 mixtures, split at row 2" in out
    mixed = latents(inverted / "out" / "mixed" / "a+c.safetensors").ws
    a, c = (Inversion.load(inverted / "out" / name).inputs.ws for name in "ac")
    assert torch.equal(mixed, torch.cat([a[:, :2], c[:, 2:]], dim=1))
    assert (inverted / "out" / "mixed" / "mixed.png").is_file()
    assert latentopt("mix", "--most", "2")[1].count("2 mixtures, split at row 2") == 1  # 7/18 of 6 rows
    for arguments, message in ((("out/a",), "2 images or more"), (("--split", "6"), "row 1 to 5")):
        code, _, err = latentopt("mix", *arguments)
        assert code == 2 and message in err


@pytest.mark.parametrize("space", ["w+", "p-norm+"])
def test_interpolate(inverted, latentopt, space):
    code, out, err = latentopt("interpolate", "out/a", "out/c", "--space", space, "--steps", "3", "--animate")
    assert code == 0, err
    folder = inverted / "out" / "a" / "interpolated"
    assert "1 way of 3 pictures" in out
    middle = latents(folder / f"a-to-c,-{space}" / "001.safetensors").ws
    mean = (Inversion.load(inverted / "out" / "a").inputs.ws + Inversion.load(inverted / "out" / "c").inputs.ws) / 2
    assert torch.allclose(middle, mean, atol=1e-5) == (space == "w+")
    assert Image.open(folder / f"interpolated-{space}.webp").n_frames > 30
    assert (folder / f"interpolated-{space}.png").is_file()


def test_results_of_one_name_and_projected_w(inverted, latentopt):
    """Latents of other tools can be edited too."""
    code, _, err = latentopt("interpolate", "out/a/projected_w.npz", "out/b/projected_w.npz", *NETWORK, "--steps", "3")
    assert code == 0, err
    assert (inverted / "out" / "a" / "interpolated" / "projected_w-to-projected_w-2,-w+" / "001.png").is_file()


# ---- directions


def test_find_by_the_judge(inverted, latentopt):
    code, out, err = latentopt(
        "directions",
        "find",
        "--method",
        "interfacegan",
        *NETWORK,
        "--samples",
        "200",
        "--attributes",
        "hair_tone",
        "-q",
    )
    assert code == 0, err
    path = inverted / "directions" / "tiny-interfacegan.safetensors"
    assert "hair_tone" in out and path.with_suffix(".png").is_file()
    found = load_directions(path, load_generator("net/tiny.safetensors"))["hair_tone"]
    assert found.score is not None and found.about["judge"].startswith("judge ") and found.about["samples"] == 200
    assert latentopt("edit", "--do", "hair-tone=1")[0] == 0


class Brightness:
    attributes, binary_attributes = ("light",), ()

    def read(self, image):
        return image.mean(dim=(1, 2, 3))[:, None]


def test_find_by_a_judge_of_ones_own(inverted, latentopt):
    """The direction found for brightness makes pictures brighter."""
    (inverted / "my_brightness.py").write_text("from test_command_edit import Brightness as make\n")
    code, _, err = latentopt(
        *("directions", "find", "--method", "interfacegan", *NETWORK, "--samples", "400", "-q"),
        *("--judge", "my_brightness:make", "--space", "p-norm", "--no-sheet"),
    )
    assert code == 0, err
    assert latentopt("edit", "out/a", "--sweep", "light=-2..2:2")[0] == 0
    folder = inverted / "out" / "a" / "edits" / "a"
    assert read_png(folder / "light-2.png").mean() + 0.05 < read_png(folder / "light+2.png").mean()


def test_find_by_two_folders(inverted, latentopt):
    """Samples sorted into two folders by their redness; the direction makes pictures redder."""
    assert latentopt("sample", *NETWORK, "--seeds", "0-59", "--trunc", "1", "--outdir", "all", "--no-grid")[0] == 0
    pictures = sorted((inverted / "all").glob("seed*.png"), key=lambda path: read_png(path)[0].mean().item())
    for folder, part in (("pale", pictures[:25]), ("red", pictures[-25:])):
        (inverted / folder).mkdir()
        for path in part:
            path.rename(inverted / folder / path.name)
    code, _, err = latentopt(
        *("directions", "find", "--method", "interfacegan", *NETWORK, "--folders", "red", "pale", "--trunc", "1"),
        *("--no-sheet", "--out", "directions/red.safetensors"),
    )
    assert code == 0, err
    assert latentopt("edit", "out/a", "--sweep", "red=-2..2:2")[0] == 0
    folder = inverted / "out" / "a" / "edits" / "a"
    assert read_png(folder / "red-2.png")[0].mean() < read_png(folder / "red+2.png")[0].mean()


def test_find_adds_to_a_file(inverted, latentopt):
    find = ("directions", "find", *NETWORK, "--no-sheet", "--out", "d.safetensors", "--components", "2", "-q")
    assert latentopt(*find, "--method", "sefa", "--layers", "0-1")[0] == 0
    assert latentopt(*find, "--method", "ganspace", "--samples", "500")[0] == 0
    code, out, _ = latentopt("directions", "list", "d.safetensors", "--json")
    assert code == 0
    assert [(d["name"], d["method"], d["layers"]) for d in json.loads(out)] == [
        ("sefa0", "sefa", [0, 1]),
        ("sefa1", "sefa", [0, 1]),
        ("pc0", "ganspace", None),
        ("pc1", "ganspace", None),
    ]
    save_generator(make_tiny_generator(seed=3, channels=(8, 6, 4)), inverted / "net" / "other.safetensors")
    code, _, err = latentopt(*find, "--method", "sefa", "--network", "net/other.safetensors")
    assert code == 1 and "d.safetensors" in err


def test_list(inverted, latentopt):
    code, out, _ = latentopt("directions", "list", *NETWORK)
    assert code == 0 and all(name in out for name in ("smile", "hair_length", "yaw", "mine.safetensors"))
    (inverted / "directions" / "mine.safetensors").unlink()
    code, _, err = latentopt("directions", "list", *NETWORK)
    assert code == 1 and "directions find" in err


def test_info_tells_what_a_file_holds(inverted, latentopt):
    code, out, _ = latentopt("info", "directions/mine.safetensors", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["kind"] == "directions for editing" and facts["generator"] == "tiny"
    assert facts["directions"]["smile"] == "w, rows all, "


def test_hostile_names_are_printed_and_written_harmlessly(inverted, latentopt):
    generator = load_generator("net/tiny.safetensors")
    name = "../../\x1b[31mred[bold]"
    save_directions(inverted / "h.safetensors", [Direction(name, "w", torch.ones(16), generator.fingerprint)])
    code, out, _ = latentopt("directions", "list", "h.safetensors")
    assert code == 0 and "\x1b[31m" not in out and "[bold]" in out
    code, out, err = latentopt("edit", "out/a", "--do", f"{name}=1", "--directions", "h.safetensors", "--to", "in/here")
    assert code == 0, err
    assert len(list((inverted / "in" / "here" / "a").iterdir())) == 2
    assert {path.name for path in (inverted / "in").iterdir()} == {"here"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "sefa", "--labels", "x.csv"), "--method interfacegan"),
        (("--method", "sefa", "--layer", "b8"), "--method ganspace"),
        (("--method", "interfacegan", "--labels", "x.csv", "--folders", "a", "b"), "exclude"),
        (("--method", "interfacegan", "--run", "out"), "--labels"),
        (("--method", "interfacegan", "--name", "x"), "--folders"),
        (("--method", "sefa", "--layers", "0-9"), "rows 0 to 5"),
        (("--method", "sefa", "--space", "p-norm"), "linear in w"),
        (("--method", "sefa", "--components", "17"), "1 to 16"),
    ],
)
def test_find_refuses(folder, latentopt, arguments, message):
    code, _, err = latentopt("directions", "find", *NETWORK, *arguments)
    assert code == 2 and message in err
