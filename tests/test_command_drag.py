"""`latentopt drag`, and the films of it and of `latentopt edit`: what they take, what they write."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from conftest import interrupt
from PIL import Image

from latentopt.api import invert
from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions
from latentopt.editing.films import between
from latentopt.editing.sequence import Edit
from latentopt.pictures.images import DELTA_FILE, read_png
from latentopt.recipe.recipe import Recipe
from latentopt.types import GeneratorInputs

SAMPLE = ("--seed", "3", "--network", "net/tiny.safetensors", "--trunc", "1")
POINT = ("--point", "4,5:9,5")
SHORT = Recipe.load("i2s").override(["stages.0.steps=1", 'stages.0.terms=[{name="l2"}]'])


@pytest.fixture
def result(folder) -> Path:
    """One picture's result in out/a, with weights that were tuned, and two directions."""
    generator = load_generator("net/tiny.safetensors")
    (found,) = invert(generator, "photos/a.png", SHORT, out="out")
    name = "synthesis.b8.conv0.weight"
    delta = Delta({name: 0.1 * torch.ones(generator.tunable[name])}, generator.fingerprint, generator.name, {})
    tuned = found.inputs.replace(deltas=delta.deltas())
    type(found)(**{**vars(found), "inputs": tuned}).save(Path("out/a"))
    rng = torch.Generator().manual_seed(0)
    directions = [
        Direction(name, "w", torch.randn(16, generator=rng), generator.fingerprint, generator=generator.name)
        for name in ("smile", "yaw")
    ]
    save_directions(Path("directions/mine.safetensors"), directions)
    return Path("out/a")


def frames(path: Path) -> int:
    with Image.open(path) as film:
        return film.n_frames


def test_a_result_is_dragged_with_its_tuned_weights(result, latentopt):
    mask = Image.new("L", (8, 8), 255)
    mask.paste(0, (0, 0, 3, 8))
    mask.save("mask.png")
    options = ("--mask", "mask.png", "--steps", "3", "--film", "way.webp", "--marks", "--point", "10%,10%:10%,10%")
    code, out, err = latentopt("drag", result, *POINT, *options)
    assert code == 0, err
    assert "pixels from its target: out/a/dragged/a/dragged.png" in out
    folder = Path("out/a/dragged/a")
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"dragged.png", "dragged.safetensors", "dragged.json", "dragged.points.png", "way.webp", DELTA_FILE}
    made = GeneratorInputs.load(folder / "dragged.safetensors")
    before = GeneratorInputs.load(result / "inputs.safetensors")
    assert made.deltas is None, "they lie beside it"
    assert not torch.equal(made.ws[:, :2], before.ws[:, :2]) and torch.equal(made.ws[:, 2:], before.ws[:, 2:])
    generator = load_generator("net/tiny.safetensors")
    deltas = Delta.load(folder / DELTA_FILE).deltas()
    image = generator.synthesis(made.replace(deltas=deltas))[0].clamp(-1, 1)
    torch.testing.assert_close(read_png(folder / "dragged.png"), image, rtol=0, atol=0.01)
    record = json.loads((folder / "dragged.json").read_text())
    assert (record["steps"], record["status"], record["arrived"]) == (3, "done", False)
    assert record["points"][0]["from"] == [4, 5] and record["points"][0]["to"] == [9, 5]
    assert frames(folder / "way.webp") == 4
    code, out, err = latentopt("edit", folder / "dragged.safetensors", "--do", "smile=1")
    assert code == 0, err


def test_a_sample_is_dragged(folder, latentopt):
    code, out, err = latentopt("drag", *SAMPLE, "--point", "4,5:4.2,5", "--name", "still")
    assert code == 0, err
    assert out == "all points arrived in 0 steps: out/dragged/seed0003/still.png\n"
    assert latentopt("sample", *SAMPLE[2:], "--seeds", "3", "--outdir", "plain")[0] == 0
    apart = read_png("out/dragged/seed0003/still.png") - read_png("plain/seed0003.png")
    assert apart.abs().max() < 0.02


def test_ctrl_c_writes_what_was_reached(folder, latentopt, monkeypatch):
    interrupt(monkeypatch, 3, signal.SIGINT)
    code, out, _ = latentopt("drag", *SAMPLE, *POINT)
    assert code == 130 and "after" in out
    steps = json.loads(Path("out/dragged/seed0003/dragged.json").read_text())["steps"]
    assert 1 <= steps <= 2
    assert Path("out/dragged/seed0003/dragged.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*SAMPLE,), 2, "Missing option '--point'"),
        ((*SAMPLE, "--point", "4,5"), 2, "no drag; write X,Y:X,Y"),
        ((*SAMPLE, "--point", "4,5:16,5"), 2, "outside the picture; x is from 0 to 15"),
        ((*SAMPLE, *POINT, "--mask", "none.png"), 1, "none.png"),
        ((*SAMPLE, *POINT, "--recipe", "i2s"), 2, "none that drags"),
        ((*SAMPLE, *POINT, "--film", "way.gif"), 2, "way.gif: a film is .webp or .mp4"),
        ((*SAMPLE, *POINT, "--fps", "5"), 2, "--fps is of a film"),
        ((*SAMPLE, *POINT, "--marks"), 2, "--marks is of a film"),
        ((*SAMPLE, *POINT, "--class", "1"), 2, "takes no labels"),
        (("--trunc", "1", *POINT), 2, "add --seed"),
        (("photos", "--seed", "1", *POINT), 2, "not both"),
    ],
    ids=str,
)
def test_drag_refuses(folder, latentopt, arguments, code, message):
    found, _, err = latentopt("drag", *arguments)
    assert (found, message in err) == (code, True), err


def test_points_are_of_one_picture(folder, latentopt):
    invert(load_generator("net/tiny.safetensors"), "photos", SHORT, out="out")
    code, _, err = latentopt("drag", *POINT)
    assert code == 2 and "points are of one picture, and there are 3: name one of them (a, b, c)" in err
    assert latentopt("edit", "--film", "far/way.webp", "--do", "smile=1")[0] == 2


def test_a_film_goes_through_the_edits(result, latentopt):
    do = ("--do", "smile=1", "--do", "yaw=-1")
    code, _, err = latentopt("edit", result, *do, "--film", "anna.webp", "--frames", "3", "--fps", "5")
    assert code == 0, err
    folder = Path("out/a/edits/a")
    assert frames(folder / "anna.webp") == 7, "as it is, and three for each edit"
    code, _, err = latentopt("edit", result, *do, "--film", "films/anna.webp", "--frames", "2", "--back")
    assert code == 0, err
    assert frames(Path("films/anna.webp")) == 8
    with Image.open(folder / "anna.webp") as film, Image.open(folder / "smile+1_yaw-1.png") as picture:
        film.seek(film.n_frames - 1)
        last = film.convert("RGB").resize(picture.size, Image.Resampling.BOX)
        apart = torch.tensor(list(last.tobytes())).float() - torch.tensor(list(picture.tobytes())).float()
        assert apart.abs().mean() < 12, "the last frame is the last picture, but for compression"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--film", "a.webp"), "--film shows edits"),
        (("--do", "smile=1", "--frames", "3"), "--frames is of a film"),
        (("--do", "smile=1", "--back"), "--back is of a film"),
        (("--do", "smile=1", "--film", "a.avi"), "a film is .webp or .mp4"),
        (("--do", "smile=1", "--film", "net/tiny.safetensors/a.webp"), "is a file"),
    ],
    ids=str,
)
def test_edit_refuses_films(result, latentopt, options, message):
    code, _, err = latentopt("edit", result, *options)
    assert (code, message in err) == (2, True), err


def test_a_film_needs_its_package_before_any_work(result, latentopt, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    code, _, err = latentopt("edit", result, "--do", "smile=1", "--film", "a.mp4")
    assert code == 1 and "pip install 'latentopt[video]'" in err
    assert not Path("out/a/edits").exists()


def test_between_by_hand():
    done = [Edit("a", 2.0), Edit("b", -1.0)]
    shown = [[(e.name, e.strength) for e in edits] for edits in between(done, 2)]
    assert shown == [[], [("a", 1)], [("a", 2)], [("a", 2), ("b", -0.5)], [("a", 2), ("b", -1)]]
