"""latentopt encode: results like an inversion's, every step on request, and what goes on from them."""

from __future__ import annotations

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch
from conftest import finished, make_encoder, make_tiny_generator, rows, w

from latentopt.checkpoints import trained_files
from latentopt.checkpoints.networks import load_generator
from latentopt.encoders.files import load_encoder, save_encoder
from latentopt.files.storage import load_tensors
from latentopt.inverting.encoding import BatchEncoder
from latentopt.pictures.images import RUN_FILES, read_image, read_png

KINDS = ("psp", "e4e", "restyle-psp")
NETWORK = ("--network", "net/tiny.safetensors", "--terms", "l2")


@pytest.fixture
def folder(folder, monkeypatch):
    """The tiny generator's folder, with an encoder of three kinds."""
    generator = load_generator("net/tiny.safetensors")
    for kind in KINDS:
        save_encoder(make_encoder(generator, kind), folder / f"{kind}.safetensors")
    monkeypatch.setattr(trained_files, "BUNDLED", folder / "bundled")
    save_encoder(make_encoder(generator, "e4e"), folder / "bundled" / "tiny" / "encoder-e4e.safetensors")
    return folder


@pytest.fixture
def encode(latentopt, folder):
    def call(*arguments):
        code, out, err = latentopt("encode", "photos", *NETWORK, *arguments)
        assert code == 0, err
        return out

    return call


def codes(folder, encoder, **options):
    """What the library makes of the photos a, b, c: [3,L,C]."""
    generator = load_generator("net/tiny.safetensors")
    target = torch.stack([read_image(f"photos/{name}.png", generator.resolution).image for name in "abc"])
    return load_encoder(f"{encoder}.safetensors", generator).encode(generator, target, **options)[-1].ws


def test_results_are_an_inversions(encode, folder):
    encode("--encoder", "restyle-psp.safetensors", "--steps", "2")
    expected = codes(folder, "restyle-psp", steps=2)
    for i, name in enumerate("abc"):
        result = folder / "out" / name
        assert {path.name for path in result.iterdir()} == set(RUN_FILES)
        np.testing.assert_allclose(w(result)[0], expected[i], atol=1e-5)
        run = json.loads((result / "run.json").read_text())
        assert (run["encoder"]["kind"], run["encoder"]["steps"], run["steps"]) == ("restyle-psp", 2, 2)
        assert run["encoder"]["fingerprint"] == load_encoder("restyle-psp.safetensors").fingerprint
        assert [change["step"] for change in run["changes"]] == [1, 2]
        assert all(change["coarse"] > 0 and change["medium"] > 0 for change in run["changes"])
    assert set(rows(folder / "out")) == set("abc")
    assert (folder / "out" / "index.html").is_file()


def test_a_bundled_encoder_goes_by_its_kind(encode, folder):
    encode("--encoder", "e4e")
    np.testing.assert_allclose(w(folder / "out" / "b")[0], codes(folder, "e4e")[1], atol=1e-5)


def test_what_is_finished_is_not_done_again(encode, folder):
    encode("--encoder", "psp.safetensors")
    before = finished(folder / "out")
    encode("--encoder", "psp.safetensors")
    assert finished(folder / "out") == before
    save_encoder(make_encoder(load_generator("net/tiny.safetensors"), "psp", seed=1), folder / "psp.safetensors")
    encode("--encoder", "psp.safetensors")  # another encoder under the same name
    assert all(finished(folder / "out")[name] != before[name] for name in "abc")
    again = finished(folder / "out")
    encode("--encoder", "psp.safetensors", "--overwrite")
    assert all(finished(folder / "out")[name] != again[name] for name in "abc")


def test_every_step_and_what_it_changed(encode, folder):
    encode("--encoder", "restyle-psp.safetensors", "--steps", "3", "--keep-steps", "--heat-maps")
    result = folder / "out" / "a"
    kept, _ = load_tensors(result / "steps.safetensors")
    assert kept["ws"].shape == (4, 6, 16)
    np.testing.assert_array_equal(kept["ws"][-1], w(result)[0])
    assert torch.equal(read_png(result / "step-3.png"), read_png(result / "proj.png"))
    assert not torch.equal(read_png(result / "step-0.png"), read_png(result / "step-1.png"))
    assert {path.name for path in result.glob("heat-map-*")} == {f"heat-map-{step}.png" for step in (1, 2, 3)}
    assert (folder / "out" / "heat-maps.png").is_file()
    with (folder / "out" / "steps.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["step"] for row in table] == ["0", "1", "2", "3"]
    assert {row["images"] for row in table} == {"3"}
    moved = (kept["ws"][1] - kept["ws"][0]).abs()
    history = [json.loads(line) for line in (result / "history.jsonl").read_text().splitlines()]
    assert history[1]["coarse"] == pytest.approx(moved[:4].mean().item(), rel=1e-4)
    assert history[1]["medium"] == pytest.approx(moved[4:].mean().item(), rel=1e-4)
    assert "fine" not in history[1]  # a generator of 16 pixels has no fine rows

    encode("--encoder", "restyle-psp.safetensors", "--steps", "2", "--keep-steps")  # fewer: no old step is left
    assert {path.name for path in result.glob("step-*")} == {f"step-{step}.png" for step in (0, 1, 2)}
    assert not list(result.glob("heat-map-*"))


def test_the_batch_is_only_speed(encode, folder):
    encode("--encoder", "psp.safetensors", "--outdir", "three")
    encode("--encoder", "psp.safetensors", "--outdir", "one", "--batch", "1")
    for name in "abc":
        np.testing.assert_allclose(w(folder / "one" / name), w(folder / "three" / name), atol=1e-5)


def test_mixing_and_bootstrapping(encode, folder):
    encode("--encoder", "psp.safetensors", "--mix", "e4e.safetensors", "--share", "0.25", "--outdir", "mixed")
    expected = 0.75 * codes(folder, "psp") + 0.25 * codes(folder, "e4e")
    np.testing.assert_allclose(w(folder / "mixed" / "c")[0], expected[2], atol=1e-5)
    encode("--encoder", "restyle-psp.safetensors", "--bootstrap", "e4e", "--outdir", "bootstrapped", "--keep-steps")
    kept, _ = load_tensors(folder / "bootstrapped" / "c" / "steps.safetensors")
    np.testing.assert_allclose(kept["ws"][0], codes(folder, "e4e")[2], atol=1e-5)
    run = json.loads((folder / "bootstrapped" / "c" / "run.json").read_text())
    assert run["encoder"]["bootstrap"]["kind"] == "e4e"


def test_its_recipe_gives_the_same_by_invert(encode, folder, latentopt):
    encode("--encoder", "restyle-psp.safetensors", "--steps", "2")
    recipe = str(folder / "out" / "a" / "recipe.toml")
    code, _, err = latentopt("invert", "photos", *NETWORK, "--recipe", recipe, "--outdir", "inverted")
    assert code == 0, err
    np.testing.assert_allclose(w(folder / "inverted" / "a"), w(folder / "out" / "a"), atol=1e-5)


@pytest.mark.parametrize("init", ["e4e", "encoder:psp.safetensors"])
def test_a_warm_start_of_any_recipe(init, latentopt, folder):
    arguments = ("photos", *NETWORK, "--recipe", "i2s", "--init", init)
    assert latentopt("invert", *arguments, "--steps", "0")[0] == 0
    name = "e4e" if init == "e4e" else "psp"
    np.testing.assert_allclose(w(folder / "out" / "b")[0], codes(folder, name)[1], atol=1e-5)
    before = float(rows(folder / "out")["b"]["psnr"])
    assert latentopt("invert", *arguments, "--steps", "30")[0] == 0
    assert float(rows(folder / "out")["b"]["psnr"]) > before + 0.5


@pytest.mark.parametrize("recipe", ["hybrid-e4e", "s2e"])
@pytest.mark.parametrize("space", [(), ("--space", "p-norm+", "--clip", "2")], ids=["w+", "p-norm+"])
def test_hybrid_recipes(recipe, space, latentopt, folder):
    code, _, err = latentopt("invert", "photos/a.png", *NETWORK, "--recipe", recipe, "--steps", "3", *space)
    assert code == 0, err
    history = [json.loads(line) for line in (folder / "out" / "a" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["best"] < history[0]["loss"]
    if recipe == "s2e":  # starts from one code for all rows
        assert latentopt("invert", "photos/a.png", *NETWORK, "--recipe", recipe, "--steps", "0")[0] == 0
        assert np.ptp(w(folder / "out" / "a")[0], axis=0).max() < 1e-5


def test_results_can_be_tuned(encode, folder, latentopt):
    encode("--encoder", "psp.safetensors")
    code, _, err = latentopt(
        "tune",
        "out",
        "--method",
        "weights",
        "--steps",
        "2",
        "--corruption",
        "0",
        "--set",
        'stages.0.terms=[{name="l2"}]',
    )
    assert code == 0, err
    assert len(list(folder.rglob("delta.safetensors"))) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--share", "0.5"), 2, "--share needs --mix"),
        (("--bootstrap-network", "net/tiny.safetensors"), 2, "--bootstrap-network needs --bootstrap"),
        (("--encoder", "psp.safetensors", "--steps", "3"), 2, "takes no steps"),
        (("--encoder", "psp.safetensors", "--bootstrap", "e4e"), 2, "one-pass"),
        (("--encoder", "psp.safetensors", "--stage", "1"), 2, "no stages"),
        (("--encoder", "restyle-e4e"), 1, "latentopt train encoder --kind restyle-e4e"),
        (("--encoder", "none.pt"), 1, "none.pt: no such file"),
        (("--encoder", "net/tiny.safetensors"), 1, "latentopt-generator-1"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, code, words, latentopt, folder):
    found, _, err = latentopt("encode", "photos", *NETWORK, *arguments)
    assert (found, words in err) == (code, True), err


def test_unreadable_pictures_fail_alone(latentopt, folder):
    (folder / "photos" / "d.png").write_text("no picture")
    code, _, err = latentopt("encode", "photos", *NETWORK, "--encoder", "psp.safetensors", "-q")
    assert code == 3
    assert "d.png" in err
    assert {name: row["status"] for name, row in rows(folder / "out").items()} == dict.fromkeys("abc", "ok") | {
        "d": "failed"
    }


def test_an_encoder_of_another_generator_is_taken_by_force_only(latentopt, folder):
    other = make_tiny_generator(seed=9, channels=(8, 6, 4))
    save_encoder(make_encoder(other, "psp"), folder / "other.safetensors")
    code, _, err = latentopt("encode", "photos", *NETWORK, "--encoder", "other.safetensors")
    assert code == 1
    assert "trained for generator" in err
    assert latentopt("encode", "photos", *NETWORK, "--encoder", "other.safetensors", "--force")[0] == 0


def test_interrupted_it_stops_at_once_and_what_is_finished_stays(folder, latentopt, monkeypatch):
    """The batch at work is begun again by the next call; steps.csv is as before."""
    plain, batches = BatchEncoder._work, []

    def work(self, items):
        batches.append(len(items))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        yield from plain(self, items)

    (folder / "out").mkdir()
    (folder / "out" / "steps.csv").write_text("earlier")
    command = ("encode", "photos", *NETWORK, "--encoder", "psp.safetensors", "--batch", "1")
    with monkeypatch.context() as patch:
        patch.setattr(BatchEncoder, "_work", work)
        assert latentopt(*command)[0] == 130
    assert not (folder / "out" / "summary.csv").is_file()
    assert (folder / "out" / "steps.csv").read_text() == "earlier"
    assert len(list((folder / "out").rglob("run.json"))) == 1
    assert latentopt(*command)[0] == 0
    assert len(list((folder / "out").rglob("run.json"))) == 3
