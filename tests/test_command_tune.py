"""`latentopt tune`: which results it takes, what it writes, and that it can be stopped at any time."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import finished, interrupt, make_tiny_generator, rows

from latentopt.checkpoints.delta import Delta
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.evaluation.corruption import Corruption, SampleCorruption
from latentopt.pictures.images import read_png
from latentopt.results.inversion import Inversion
from latentopt.statistics.sigma import Sigma

NETWORK = ("--network", "net/tiny.safetensors")
METHOD = """
name = "mine"
[[stages]]
init = "mean"
steps = 3
lr = 0.05
optimize = ["w"]
terms = ["l2"]
[[stages]]
steps = 6
lr = 0.01
optimize = [{ name = "%s" }]
terms = ["l2"]
"""
JOINT = METHOD.replace('[{ name = "%s" }]', '[{ name = "w", lr = 0.02 }, { name = "weights", layers = "convs:2" }]')


@pytest.fixture
def tuned(folder, latentopt, monkeypatch):
    """A folder with methods, an inversion in out/, and a corruption that takes no time: (folder, latentopt)."""
    monkeypatch.setattr(SampleCorruption, "of", lambda self, *_: Corruption(0.5, 0.25, 0.0, self.n, "none"))
    for name in ("weights", "lowrank", "epsilon"):
        (folder / f"{name}.toml").write_text(METHOD % name)
    (folder / "joint.toml").write_text(JOINT)
    code, _, _ = latentopt("invert", "photos", *NETWORK, "--terms", "l2=1", "--steps", "3", "-q", "--recipe", "i2s")
    assert code == 0
    return folder


def deltas(folder) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in Delta.load(folder).tensors.items()}


@pytest.mark.parametrize("method", ["weights", "lowrank", "joint"])
def test_the_newest_run_is_tuned(tuned, latentopt, method):
    """Every image draws better than before; the folder holds what draws it; no option is needed."""
    code, out, err = latentopt("tune", "--method", f"{method}.toml", "-q", "--corruption", "4")
    assert code == 0, err
    assert "tuning the newest run: out (3 images)" in err
    assert all(word in out for word in ("psnr", "before", "after", "corruption", "parameters", "peak MB", "seconds"))
    generator = load_generator("net/tiny.safetensors")
    table = rows(tuned / "out" / f"tuned-{method}")
    for name in "abc":
        assert float(table[name]["psnr"]) > float(table[name]["psnr_before"])
        assert float(table[name]["frechet"]) == 0.5
        folder = tuned / "out" / f"tuned-{method}" / name
        result = Inversion.load(folder)
        assert int(table[name]["tuned"]) == sum(x.numel() for x in result.inputs.deltas.values())
        drawn = generator.synthesis(result.inputs)[0].clamp(-1, 1)
        assert (drawn - read_png(folder / "proj.png")).abs().max() < 1 / 127, "the folder holds what drew its picture"
        baked = Delta.load(folder, generator).bake(generator)
        plain = result.inputs.replace(deltas=None)
        assert (baked.synthesis(plain) - generator.synthesis(result.inputs)).abs().max() < 1e-4
        assert result.manifest["tuned_from"]["metrics"]["psnr"] == pytest.approx(float(table[name]["psnr_before"]))
        before = Inversion.load(tuned / "out" / name).inputs.ws
        assert torch.equal(result.inputs.ws, before) == (method != "joint"), "a pivot stays where it is"


def test_the_latents_move_in_the_space_that_they_were_found_in(tuned, latentopt):
    """A code of W+ tuned by a method made for W stays one of W+, bounds and all."""
    assert (
        latentopt(
            "invert", "photos", *NETWORK, "--terms", "l2=1", "--steps", "2", "-q", "--space", "pnorm+", "--clip", "2"
        )[0]
        == 0
    )
    code, out, _ = latentopt("tune", "--method", "joint.toml", "--dry-run")
    assert code == 0
    assert 'name = "p-norm+"' in out and "clip = 2.0" in out and "lr = 0.02" in out
    assert 'init = { name = "previous" }' in out and out.count("[[stages]]") == 1


def test_images_are_inverted_first(tuned, latentopt):
    code, _, err = latentopt("tune", "photos/a.png", "photos/b.png", *NETWORK, "--method", "weights.toml", "-q")
    assert code == 0, err
    assert set(finished(tuned / "out" / "weights" / "tuned-weights")) == {"a", "b"}
    record = json.loads((tuned / "out" / "weights" / "a" / "run.json").read_text())
    assert record["recipe"]["name"] == "mine (inversion)"
    ws = Inversion.load(tuned / "out" / "weights" / "a").inputs.ws
    assert torch.equal(ws, ws[:, :1].expand_as(ws)), "the method's own first stage: W"


def test_done_already_is_not_done_again_and_a_new_inversion_is(tuned, latentopt):
    arguments = ("tune", "--method", "weights.toml", "-q")
    assert latentopt(*arguments)[0] == 0
    before = finished(tuned / "out" / "tuned-weights")
    assert latentopt(*arguments)[0] == 0
    assert finished(tuned / "out" / "tuned-weights") == before
    assert latentopt("invert", "photos", *NETWORK, "--terms", "l2=1", "--steps", "5", "-q", "--recipe", "i2s")[0] == 0
    assert latentopt(*arguments)[0] == 0
    after = finished(tuned / "out" / "tuned-weights")
    assert set(after) == set(before) and all(after[name] != before[name] for name in before)


def test_one_folder_or_one_image_of_a_run(tuned, latentopt):
    assert latentopt("tune", "out/b", "--method", "weights.toml", "-q", "--to", "here")[0] == 0
    assert set(finished(tuned / "here")) == {"b"}


def test_one_change_for_all_images(tuned, latentopt):
    code, _, err = latentopt("tune", "--method", "weights.toml", "--shared", "-q")
    assert code == 0, err
    first, *others = (deltas(tuned / "out" / "tuned-weights" / name) for name in "abc")
    for other in others:
        assert all(np.array_equal(first[name], other[name]) for name in first)
    assert any(np.abs(x).max() > 0 for x in first.values())
    shutil.rmtree(tuned / "out" / "tuned-weights" / "b")
    before = finished(tuned / "out" / "tuned-weights")
    assert latentopt("tune", "--method", "weights.toml", "--shared", "-q")[0] == 0
    after = finished(tuned / "out" / "tuned-weights")
    assert set(after) == set("abc"), "one result lost: the group is tuned again, together"
    again = [deltas(tuned / "out" / "tuned-weights" / name) for name in "abc"]
    assert all(np.array_equal(first[name], other[name]) for other in again for name in first)
    assert before.keys() == {"a", "c"}


def test_sigma_is_found_or_estimated_and_named(tuned, latentopt):
    arguments = ("tune", "--method", "epsilon.toml", "--layers", "convs:2", "-q")
    code, out, err = latentopt(*arguments)
    assert code == 0, err
    assert "has no sigma yet" in err and "sigma estimated" in out
    assert Sigma.load(tuned / "sigma" / "tiny.safetensors").origin == "estimated"
    record = json.loads((tuned / "out" / "tuned-epsilon" / "a" / "run.json").read_text())
    assert record["sigma"]["origin"] == "estimated"
    before = finished(tuned / "out" / "tuned-epsilon")
    generator = load_generator("net/tiny.safetensors")
    scales = Sigma.load(tuned / "sigma" / "tiny.safetensors").tensors
    Sigma(scales, "learned", generator.fingerprint).save(tuned / "net" / "sigma.safetensors")
    code, out, err = latentopt(*arguments)
    assert "sigma learned" in out and "no sigma" not in err
    after = finished(tuned / "out" / "tuned-epsilon")
    assert all(after[name] != before[name] for name in before), "another sigma file makes the results stale"


def test_stopped_and_gone_on_with_it_is_as_if_never_stopped(tuned, latentopt, monkeypatch):
    arguments = ("tune", "out", "--method", "joint.toml", "-q", "--batch", "2")
    with monkeypatch.context() as patch:
        interrupt(patch, 3, signal.SIGINT)
        assert latentopt(*arguments)[0] == 130
    assert not finished(tuned / "out" / "tuned-joint")
    assert list((tuned / "out" / "tuned-joint" / ".resume").iterdir())
    assert latentopt(*arguments)[0] == 0
    assert latentopt(*arguments, "--to", "whole")[0] == 0
    for name in "abc":
        first, second = (deltas(folder / name) for folder in (tuned / "out" / "tuned-joint", tuned / "whole"))
        assert all(np.array_equal(first[key], second[key]) for key in first)


def test_stopped_between_two_results_no_optimisation_is_repeated(tuned, latentopt, monkeypatch):
    """Measuring corruption takes longer than a step: what is finished stays so, and the steps are not done again."""
    arguments = ("tune", "out", "--method", "weights.toml", "-q", "--corruption", "4")
    with monkeypatch.context() as patch:
        asked = []

        def killed(self, *_):
            asked.append(1)
            if len(asked) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                pytest.fail("measuring goes on")
            return Corruption(0.5, 0.25, 0.0, self.n, "none")

        patch.setattr(SampleCorruption, "of", killed)
        assert latentopt(*arguments)[0] == 130
    before = finished(tuned / "out" / "tuned-weights")
    assert set(before) == {"a"}
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr("latentopt.inverting.batch.minimise", lambda *_: steps.append(1) or iter(()))
        assert latentopt(*arguments)[0] == 0
    assert not steps
    after = finished(tuned / "out" / "tuned-weights")
    assert set(after) == set("abc") and after["a"] == before["a"]


def test_not_a_number_rolls_back_or_fails_alone(tuned, latentopt, monkeypatch):
    """One image's loss stops being finite: it goes back to its best point, and is said; the others never notice."""
    from latentopt.terms.pixel import L2

    plain, calls = L2.__call__, []

    def spoilt(self, view):
        calls.append(1)
        value = plain(self, view)
        return value * value.new_tensor([1, float("nan"), 1]) if len(calls) in (4, 5) else value

    arguments = ("tune", "out", "--method", "weights.toml", "-q")
    assert latentopt(*arguments, "--to", "whole")[0] == 0
    monkeypatch.setattr(L2, "__call__", spoilt)
    code, _, err = latentopt(*arguments)
    assert code == 3 and "b: unsteady: no finite loss in 2 steps" in err and "a: unsteady" not in err
    table = rows(tuned / "out" / "tuned-weights")
    assert float(table["b"]["psnr"]) > float(table["b"]["psnr_before"])
    for name in "ac":
        first, second = (deltas(folder / name) for folder in (tuned / "out" / "tuned-weights", tuned / "whole"))
        assert all(np.array_equal(first[key], second[key]) for key in first)


WRONG = {
    "no run": (("--outdir", "nothing"), 1, "run latentopt invert first"),
    "an empty folder": (("--outdir", "photos"), 1, "no finished inversion"),
    "tunes nothing": (("--method", "ii2s"), 2, "tunes no weights; those that do"),
    "unknown": (("--method", "wrangann"), 2, "did you mean 'wrangan'"),
    "no such layer": (("--method", "weights.toml", "--layers", "synthesis.b64.nope"), 2, "synthesis.b"),
    "init of a run": (("--method", "weights.toml", "--init", "mean"), 2, "--init goes with IMAGES"),
    "corruption": (("--method", "weights.toml", "--corruption", "2"), 2, "needs 4 pictures or more"),
    "rank": (("--method", "weights.toml", "--rank", "2"), 2, "rank"),
    "another generator": (
        ("--method", "weights.toml", "--network", "other.safetensors"),
        1,
        "made with generator 'tiny'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_refused(tuned, latentopt, case):
    if case == "another generator":
        save_generator(make_tiny_generator(seed=5, channels=(8, 6, 4)), tuned / "other.safetensors")
    arguments, expected, words = WRONG[case]
    code, _, err = latentopt("tune", *arguments, "-q")
    assert (code, words in err) == (expected, True), err
    assert not list(tuned.rglob("delta.safetensors"))


def test_results_of_two_recipes_are_not_mixed(tuned, latentopt):
    assert (
        latentopt("invert", "photos/a.png", *NETWORK, "--terms", "l2=1", "--steps", "4", "-q", "--recipe", "i2s")[0]
        == 0
    )
    code, _, err = latentopt("tune", "out", "--method", "weights.toml", "-q")
    assert code == 2 and "different recipes" in err
