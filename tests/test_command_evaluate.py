"""`latentopt evaluate`: which results it takes, what it prints and writes, and its errors."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch

from latentopt.checkpoints.networks import load_generator
from latentopt.editing.direction import Direction
from latentopt.editing.files import save_directions

NETWORK = ("--network", "net/tiny.safetensors")
JUDGE = """
class Brightness:
    attributes, binary_attributes = ("yaw", "light"), ("light",)

    def read(self, image):
        import torch
        left, right = image[..., :8].mean(dim=(1, 2, 3)), image[..., 8:].mean(dim=(1, 2, 3))
        return torch.stack([right - left, image.mean(dim=(1, 2, 3)).sigmoid()], dim=1)


def make():
    return Brightness()
"""
QUICK = (
    "-q",
    "--metrics",
    "bundled",
    "--samples",
    "8",
    "--paths",
    "1",
    "--steps",
    "1",
    "--partners",
    "1",
    "--lec",
    "2",
)
OWN = ("--judge", "brightness:make")


@pytest.fixture
def run(folder, latentopt):
    """Three photos inverted in out/, directions where they are found, and a judge of the user's."""
    (folder / "brightness.py").write_text(JUDGE)
    generator = load_generator("net/tiny.safetensors")
    vector = torch.randn(generator.w_dim, generator=torch.Generator().manual_seed(0))
    directions = [Direction("yaw", "w", vector, generator.fingerprint), Direction("light", "w", -vector, "f" * 16)]
    save_directions(folder / "directions" / "tiny.safetensors", directions[:1])
    save_directions(folder / "others.safetensors", directions[1:])
    code, _, _ = latentopt("invert", "photos", *NETWORK, "--terms", "l2=1", "--steps", "3", "-q", "--recipe", "i2s")
    assert code == 0
    return folder


def measures(path) -> dict:
    return json.loads((path / "evaluation.json").read_text())["measures"]


def test_the_newest_run_is_measured(run, latentopt):
    code, out, err = latentopt("evaluate", *QUICK, *OWN)
    assert (code, "evaluating the newest run: out" in err) == (0, True)
    for name in ("psnr", "pose_share", "response_yaw", "path_length_end", "radius", "lec"):
        assert name in measures(run / "out")
        assert name.removeprefix("response_") in out
    rows = list(csv.DictReader((run / "out" / "evaluation.csv").open()))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert all(float(row["yaw@+2"]) != float(row["yaw@-2"]) for row in rows)
    assert (run / "out" / "pnorm-histogram.png").stat().st_size > 5000


def test_runs_side_by_side_and_only_some_images_and_parts(run, latentopt):
    shutil.copytree(run / "out", run / "second")
    code, out, _ = latentopt("evaluate", "out", "second", *QUICK, "--images", "2", "--parts", "reconstruction, latents")
    assert code == 0
    assert "2 images" in out
    line = next(line for line in out.splitlines() if " psnr " in line)
    assert line.count(" to ") == 2
    assert measures(run / "out") == measures(run / "second")
    assert "pose_range" not in measures(run / "out")
    assert measures(run / "out")["psnr"]["n"] == 2


def test_a_run_is_written_before_the_next_one_is_measured(run, latentopt):
    shutil.copytree(run / "out", run / "second")
    record = json.loads((run / "second" / "b" / "run.json").read_text())
    record["generator"]["fingerprint"] = "0" * 16
    (run / "second" / "b" / "run.json").write_text(json.dumps(record))
    code, _, err = latentopt("evaluate", "out", "second", *QUICK, "--parts", "latents")
    assert (code, "made with generator" in err) == (1, True)
    assert measures(run / "out")["latent_variation"]["n"] == 3
    assert not (run / "second" / "evaluation.json").exists()


def test_runs_of_different_images_are_told_apart(run, latentopt):
    shutil.copytree(run / "out", run / "second")
    shutil.rmtree(run / "second" / "b")
    code, out, err = latentopt("evaluate", "out", "second", *QUICK, "--parts", "latents")
    assert (code, "2 to 3 images" in out, "different images" in err) == (0, True, True)
    _, out, err = latentopt("evaluate", "out/a", *QUICK, "--parts", "latents")
    assert ("1 image," in out, "different images" in err) == (True, False)


def test_several_runs_in_one_folder_keep_their_names(run, latentopt):
    shutil.copytree(run / "out", run / "all" / "first")
    shutil.copytree(run / "out", run / "all" / "second")
    assert latentopt("evaluate", "all", *QUICK, "--parts", "latents")[0] == 0
    rows = csv.DictReader((run / "all" / "evaluation.csv").open())
    assert [row["name"] for row in rows] == [f"{r}/{i}" for r in ("first", "second") for i in "abc"]


def test_a_generator_that_has_moved(run, latentopt):
    (run / "net" / "tiny.safetensors").rename(run / "net" / "else.safetensors")
    code, _, err = latentopt("evaluate", "out", *QUICK, "--parts", "latents")
    assert code != 0
    assert "out was made with" in err
    assert "--network" in err
    assert latentopt("evaluate", "out", *QUICK, "--parts", "latents", "--network", "net/else.safetensors")[0] == 0


def test_tuned_results_are_measured_where_they_are_named(run, latentopt):
    method = 'name = "mine"\n[[stages]]\ninit = "mean"\nsteps = 2\nlr = 0.05\noptimize = ["w"]\nterms = ["l2"]\n'
    method += '[[stages]]\nsteps = 2\nlr = 0.01\noptimize = ["weights"]\nterms = ["l2"]\n'
    (run / "mine.toml").write_text(method)
    assert latentopt("tune", "--method", "mine.toml", "--corruption", "0", "-q")[0] == 0
    code, _, err = latentopt("evaluate", "out/tuned-mine", *QUICK, "--corruption", "8", "--to", "figures")
    assert code == 0
    assert measures(run / "figures")["corruption_frechet"]["value"] > 0
    assert measures(run / "figures")["lec"]["value"] > 0 and "lec: left out" not in err
    assert not (run / "out" / "tuned-mine" / "evaluation.json").exists()


def test_files_of_directions_are_taken_and_those_of_others_refused(run, latentopt):
    only = ("--parts", "attributes", "--directions", "others.safetensors")
    code, _, err = latentopt("evaluate", "out", *QUICK, *OWN, *only)
    assert code == 1
    assert "belongs to" in err
    code, _, _ = latentopt("evaluate", "out", *QUICK, *OWN, *only, "--force")
    assert code == 0
    assert {"response_light", "flipped_light"} <= set(measures(run / "out"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere: no such folder"),
        (["photos"], 1, "photos: no finished inversion"),
        (["--outdir", "nowhere"], 1, "run latentopt invert first"),
        (["out", "--parts", "poses"], 2, "did you mean 'pose'"),
        (["out", "--metrics", "lpips"], 2, "lpips"),
        (["out", "--judge", "missing:make"], 2, "missing"),
        (["out", "photos", "--to", "x"], 2, "--to"),
        (["out", "--samples", "2"], 2, "samples"),
        (["out", "--parts", ""], 2, "nothing to measure"),
        (["out", "--to", "others.safetensors"], 2, "name another folder with --to"),
        (["out", "--network", "portraits"], 1, "made with generator 'tiny'"),
    ],
)
def test_errors_name_what_is_wrong(run, latentopt, arguments, code, message):
    found, _, err = latentopt("evaluate", *arguments, "-q")
    assert (found, message in err) == (code, True), err
    assert "Traceback" not in err
    assert not (run / "out" / "evaluation.json").exists()
